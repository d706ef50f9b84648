#include <stdio.h>

int main(void)
{
    FILE *file = fopen("result.txt", "w");
    if (!file)
        return 1;
    fputs("the result is 42\n", file);
    return fclose(file);
}
