#include <stdio.h>

int main(void)
{
    puts("before the end of time");
    fflush(stdout);
    for (volatile int forever = 1; forever;)
        ;
    return 0;
}
