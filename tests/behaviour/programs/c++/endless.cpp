#include <cstdio>

int main()
{
    std::puts("before the end of time");
    std::fflush(stdout);
    for (volatile bool forever = true; forever;)
        ;
}
