#include "../greeting.hpp"

#include <fstream>

std::string word()
{
    std::string line;
    std::ifstream file("main/word.txt");
    std::getline(file, line);
    return line;
}
