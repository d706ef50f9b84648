#include <iostream>

int main()
{
    std::cout << "before the end of time" << std::endl;
    for (volatile bool forever = true; forever;)
        ;
}
