/* version.c: which FFmpeg runs, for bug reports. Refuses to know anything else. */
#include "media/media.h"

#include <libavutil/avutil.h>

const char *media_version(void)
{
    return av_version_info();
}
