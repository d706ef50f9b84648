#include <fstream>

int main()
{
    std::ofstream("result.txt") << "the result is 42\n";
}
