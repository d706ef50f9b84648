#include <cstdio>

int main()
{
    for (int i = 0; i < 20000; i++)
        std::printf("line %06d\n", i);
}
