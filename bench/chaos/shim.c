/*
 * What a process that preloads this sees otherwise: the wall clock, and how much room the disk has.
 *
 * The file named by CHAOS_SHIM holds two numbers of eight bytes: by how many seconds the wall
 * clock is ahead, and whether SQLite's writes find the disk full. Of all programs in a round only
 * SQLite writes at a position (pwrite), so nothing else is refused. Monotonic clocks stay.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *told;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_SHIM");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED)
        told = page;
}

static time_t ahead(void)
{
    return told ? (time_t)told[0] : 0;
}

int clock_gettime(clockid_t which, struct timespec *moment)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, moment);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        moment->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *restrict moment, void *restrict zone)
{
    static int (*real)(struct timeval *, void *);
    if (!real)
        real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(moment, zone);
    if (!failed)
        moment->tv_sec += ahead();
    return failed;
}

time_t time(time_t *out)
{
    struct timespec moment;
    clock_gettime(CLOCK_REALTIME, &moment);
    if (out)
        *out = moment.tv_sec;
    return moment.tv_sec;
}

ssize_t pwrite64(int file, const void *data, size_t length, off64_t place)
{
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real)
        real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (told && told[1]) {
        errno = ENOSPC;
        return -1;
    }
    return real(file, data, length, place);
}

ssize_t pwrite(int file, const void *data, size_t length, off_t place)
{
    return pwrite64(file, data, length, place);
}
