#include <stdio.h>

int main(void)
{
    long bytes = 0, lines = 0;
    for (int c; (c = getchar()) != EOF; bytes++)
        lines += c == '\n';
    printf("%ld bytes, %ld lines\n", bytes, lines);
    return 0;
}
