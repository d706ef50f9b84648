#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    puts("before the last of the memory");
    fflush(stdout);
    for (;;) {
        char *block = malloc(1 << 20);
        if (!block)
            return 1;
        memset(block, 1, 1 << 20);
        /* The compiler may not leave out what the outside could see. */
        __asm__ volatile("" : : "r"(block) : "memory");
    }
}
