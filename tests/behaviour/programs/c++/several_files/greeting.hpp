#pragma once

#include <string>

const char *joint(void);
std::string word();
void greet(const char *name);
