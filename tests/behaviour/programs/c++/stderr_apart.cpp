#include <iostream>

int main()
{
    for (int i = 0; i < 3; i++) {
        std::cout << "out " << i << '\n';
        std::cerr << "err " << i << '\n';
    }
}
