#include <stdio.h>
#include <unistd.h>

int main(void)
{
    if (!freopen("/dev/stdin", "r", stdin) || !freopen("/dev/stdout", "w", stdout))
        return 1;
    for (int c; (c = getchar()) != EOF;)
        putchar(c);
    fflush(stdout);
    FILE *stderr_by_name = fopen("/dev/stderr", "a");
    if (!stderr_by_name || dup2(1, 9) != 9)
        return 2;
    fputs("and an error\n", stderr_by_name);
    FILE *by_descriptor = fopen("/dev/fd/9", "w");
    if (!by_descriptor)
        return 3;
    fputs("by a descriptor\n", by_descriptor);
    return !fopen("/proc/self/fd/0", "r");
}
