#include <cstdio>

int main()
{
    std::FILE *file = std::fopen("result.txt", "w");
    if (!file)
        return 1;
    std::fputs("the result is 42\n", file);
    return std::fclose(file);
}
