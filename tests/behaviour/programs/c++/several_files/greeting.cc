#include "greeting.hpp"

#include <cstdio>

void greet(const char *name)
{
    std::printf("greetings from several files of %s%s%s\n", name, joint(), word().c_str());
}
