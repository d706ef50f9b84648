#include <cstdio>

int main() {
    std::printf("g++ %s\n", __VERSION__);
}
