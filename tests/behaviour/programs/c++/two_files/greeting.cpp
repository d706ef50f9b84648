#include "greeting.hpp"

#include <cstdio>

void greet(const char *name)
{
    std::printf("greetings from two files of %s\n", name);
}
