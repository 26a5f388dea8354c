/* hash.c: SHA-256 over OpenSSL's EVP, as lower-case hex.
 *
 * Digest of nothing: e3b0c442...; refuses to know what is hashed. After a failure inside OpenSSL the digest
 * reads as 64 zeros, which equals no real one. */
#include "io/io.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct Sha256 {
    EVP_MD_CTX *cx;
    bool good;
};

Sha256 *sha256_new(void)
{
    Sha256 *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->cx = EVP_MD_CTX_new();
    h->good = h->cx && EVP_DigestInit_ex(h->cx, EVP_sha256(), NULL) == 1;
    if (h->good)
        return h;
    EVP_MD_CTX_free(h->cx);
    free(h);
    return NULL;
}

void sha256_add(Sha256 *h, const void *data, size_t n)
{
    h->good = h->good && (n == 0 || EVP_DigestUpdate(h->cx, data, n) == 1);
}

void sha256_end(Sha256 *h, char hex[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    unsigned n = 0;
    if (!h->good || EVP_DigestFinal_ex(h->cx, digest, &n) != 1 || n != 32)
        memset(digest, 0, sizeof digest);
    for (int i = 0; i < 32; i++)
        snprintf(&hex[2 * i], 3, "%02x", digest[i]);
    EVP_MD_CTX_free(h->cx);
    free(h); /* sha256_end ends it, as its comment says */
}
