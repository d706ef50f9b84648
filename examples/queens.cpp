// Places queens that do not attack each other: vmm-run examples/queens.cpp -- 8
#include <cstdio>
#include <cstdlib>
#include <vector>

static bool place(std::vector<int> &columns, int size)
{
    if (static_cast<int>(columns.size()) == size)
        return true;
    for (int column = 0; column < size; column++) {
        bool safe = true;
        for (std::size_t row = 0; row < columns.size(); row++) {
            int distance = static_cast<int>(columns.size() - row);
            safe = safe && columns[row] != column && std::abs(columns[row] - column) != distance;
        }
        if (!safe)
            continue;
        columns.push_back(column);
        if (place(columns, size))
            return true;
        columns.pop_back();
    }
    return false;
}

int main(int argc, char **argv)
{
    int size = argc > 1 ? std::atoi(argv[1]) : 8;
    std::vector<int> columns;
    if (!place(columns, size)) {
        std::fprintf(stderr, "there is no way to place %d queens\n", size);
        return 1;
    }
    for (int queen : columns) {
        for (int column = 0; column < size; column++)
            std::putchar(column == queen ? 'Q' : '.');
        std::putchar('\n');
    }
}
