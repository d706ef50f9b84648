#include <cstdio>
#include <vector>

int main()
{
    std::puts("before the last of the memory");
    std::fflush(stdout);
    std::vector<std::vector<char>> hoard;
    for (;;)
        hoard.emplace_back(1 << 20, 'x');
}
