#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    int number = atoi(argv[argc - 1]), size = 0;
    while (getchar() != EOF)
        size++;
    printf("c %d %d\n", number, size);
    fprintf(stderr, "error %d\n", number);
    FILE *file = fopen("square.txt", "w");
    fprintf(file, "%d\n", number * number);
    fclose(file);
    return number % 100;
}
