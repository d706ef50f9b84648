#include <cstdio>

int main()
{
    for (int i = 0; i < 3; i++) {
        std::printf("out %d\n", i);
        std::fprintf(stderr, "err %d\n", i);
    }
}
