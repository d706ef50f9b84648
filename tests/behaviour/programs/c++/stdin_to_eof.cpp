#include <iostream>

int main()
{
    long bytes = 0, lines = 0;
    for (char c; std::cin.get(c); bytes++)
        lines += c == '\n';
    std::cout << bytes << " bytes, " << lines << " lines\n";
}
