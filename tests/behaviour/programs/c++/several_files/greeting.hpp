#pragma once

#include <string>

std::string word();
void greet(const char *name);
