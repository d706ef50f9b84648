#include <cstdio>

#include <unistd.h>

int main()
{
    char answer[80];
    for (int i = 0; i < 6; i++) {
        std::printf("tick %d\n", i);
        std::fflush(stdout);
        if (!std::fgets(answer, sizeof answer, stdin))
            return 1;
        usleep(400000);
    }
}
