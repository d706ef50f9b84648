/* Draws the Mandelbrot set in text: vmm-run examples/mandelbrot.c */
#include <complex.h>
#include <stdio.h>

int main(void)
{
    for (int row = -12; row <= 12; row++) {
        for (int column = -52; column <= 26; column++) {
            double complex c = column / 26.0 + row / 12.0 * I, z = 0;
            int step = 0;
            while (step < 60 && cabs(z) < 2) {
                z = z * z + c;
                step++;
            }
            putchar(" .:-=+*%#@"[step * 9 / 60]);
        }
        putchar('\n');
    }
    return 0;
}
