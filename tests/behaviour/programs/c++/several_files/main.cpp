#include "greeting.hpp"
#include "language.cpp"

int main()
{
    greet(language);
}
