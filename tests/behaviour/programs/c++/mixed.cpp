#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

int main(int argc, char **argv)
{
    int number = std::stoi(argv[argc - 1]);
    std::string text(std::istreambuf_iterator<char>(std::cin), {});
    std::cout << "c++ " << number << " " << text.size() << "\n";
    std::cerr << "error " << number << "\n";
    std::ofstream("square.txt") << number * number << "\n";
    return number % 100;
}
