#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE (800L << 20)
static char array[SIZE];

int main(int argc, char **argv)
{
    for (long place = 0; place < 7; place++)
        array[place * (SIZE / 7)] = 1;
    puts("sparse");
    fflush(stdout);
    if (argc > 1 && !strcmp(argv[1], "whole"))
        memset(array, 2, SIZE);
    else if (!malloc(1L << 50)) {
        perror("malloc");
        return 1;
    }
    return array[argc] == 3;
}
