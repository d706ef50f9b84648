#include <stdio.h>
#include <unistd.h>

int main(void)
{
    for (int i = 0; i < 6; i++) {
        printf("tick %d\n", i);
        fflush(stdout);
        while (getchar() != '\n' && !feof(stdin))
            ;
        usleep(400000);
    }
    return 0;
}
