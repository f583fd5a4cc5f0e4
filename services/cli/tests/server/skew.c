/* Shifts CLOCK_REALTIME of the process that loads it by AHEAD_BY_S seconds. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *ahead = getenv("AHEAD_BY_S");
    if (result == 0 && clock == CLOCK_REALTIME && ahead != NULL) {
        time->tv_sec += atoi(ahead);
    }
    return result;
}
