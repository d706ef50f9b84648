#include <cstdio>
#include <cstring>
#include <string_view>

constexpr long size = 800L << 20;
static char array[size];

int main(int argc, char **argv)
{
    for (long place = 0; place < 7; place++)
        array[place * (size / 7)] = 1;
    std::puts("sparse");
    std::fflush(stdout);
    if (std::string_view(argv[1]) == "whole")
        std::memset(array, 2, size);
    else
        array[1] = *new char[1L << 50];
    return array[argc] == 3;
}
