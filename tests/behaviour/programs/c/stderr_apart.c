#include <stdio.h>

int main(void)
{
    for (int i = 0; i < 3; i++) {
        printf("out %d\n", i);
        fprintf(stderr, "err %d\n", i);
    }
    return 0;
}
