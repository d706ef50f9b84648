#include "greeting.hpp"

int main()
{
    greet("c++");
}
