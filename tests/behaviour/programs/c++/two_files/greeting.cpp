#include "greeting.hpp"

std::string greeting(const std::string &name)
{
    return "greetings from two files of " + name;
}
