#include <iomanip>
#include <iostream>

int main()
{
    std::cout << std::setfill('0');
    for (int i = 0; i < 20000; i++)
        std::cout << "line " << std::setw(6) << i << '\n';
}
