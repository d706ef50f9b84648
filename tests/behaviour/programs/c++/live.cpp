#include <chrono>
#include <iostream>
#include <string>
#include <thread>

int main()
{
    for (int i = 0; i < 6; i++) {
        std::cout << "tick " << i << std::endl;
        std::string answer;
        std::getline(std::cin, answer);
        std::this_thread::sleep_for(std::chrono::milliseconds(400));
    }
}
