/* dis.cpp: optical flow by OpenCV's DIS, preset medium.
 *
 * OpenCV searches patches in as many stripes as it has threads, and what a stripe finds spreads inside it, so
 * that results depend on their number. It is therefore kept to one thread, and callers run several flows side
 * by side. Exceptions end here. Knows OpenCV, and is the only file that does. Refuses to know what the flow
 * is for. */
#include "flow/flow.h"

extern "C" {
#include "base/base.h"
}

#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/video/tracking.hpp>

namespace
{

cv::Mat grey_of(const uint8_t *rgb, int width, int height)
{
    const cv::Mat picture(height, width, CV_8UC3, const_cast<uint8_t *>(rgb));
    cv::Mat grey;
    cv::cvtColor(picture, grey, cv::COLOR_RGB2GRAY);
    return grey;
}

bool use_one_thread()
{
    cv::setNumThreads(1);
    return true;
}

} // namespace

int flow_dis(void *, const uint8_t *a, const uint8_t *b, int width, int height, float *out, gimbal_error *err)
{
    static const bool one_thread = use_one_thread(); /* once, whoever comes first */
    if (width < 16 || height < 16 || !one_thread)
        return fail(err, GIMBAL_EUSAGE, "optical flow of %dx%d pixels, at least 16 a side are needed", width,
                    height);
    try {
        cv::Mat flow; /* empty: OpenCV begins from what it finds in a flow that it is given */
        cv::DISOpticalFlow::create(cv::DISOpticalFlow::PRESET_MEDIUM)
            ->calc(grey_of(a, width, height), grey_of(b, width, height), flow);
        flow.copyTo(cv::Mat(height, width, CV_32FC2, out));
        return GIMBAL_OK;
    } catch (const std::bad_alloc &) {
        return fail(err, GIMBAL_ENOMEM, "no memory for the optical flow of %dx%d pixels", width, height);
    } catch (const cv::Exception &e) {
        return fail(err, e.code == cv::Error::StsNoMem ? GIMBAL_ENOMEM : GIMBAL_ENOSUP,
                    "optical flow of %dx%d pixels: %s", width, height, e.what());
    } catch (const std::exception &e) {
        return fail(err, GIMBAL_ENOSUP, "optical flow of %dx%d pixels: %s", width, height, e.what());
    }
}

const char *flow_version(void)
{
    return CV_VERSION;
}
