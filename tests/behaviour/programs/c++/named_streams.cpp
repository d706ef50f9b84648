#include <fstream>
#include <unistd.h>

int main()
{
    std::ifstream in("/dev/stdin");
    std::ofstream("/dev/stdout") << in.rdbuf();
    std::ofstream("/dev/stderr", std::ios::app) << "and an error\n";
    if (dup2(1, 9) != 9)
        return 1;
    std::ofstream("/dev/fd/9") << "by a descriptor\n";
    return !std::ifstream("/proc/self/fd/0");
}
