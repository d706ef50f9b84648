#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_barrier_t barrier;

static void *wait_for_all(void *unused)
{
    pthread_barrier_wait(&barrier);
    return unused;
}

int main(void)
{
    pthread_t thread;
    struct stat status;
    int threads = 0, files = 0, large = open("large", O_CREAT | O_RDWR, 0644);

    pthread_barrier_init(&barrier, NULL, 201);
    while (threads < 200 && !pthread_create(&thread, NULL, wait_for_all, NULL))
        threads++;
    while (files < 900 && open("/dev/null", O_RDONLY) >= 0)
        files++;
    if (threads == 200)
        pthread_barrier_wait(&barrier);
    if (ftruncate(large, 1L << 30) || fstat(large, &status))
        return 1;
    printf("%d threads, %d files, %ld GiB\n", threads, files, (long)status.st_size >> 30);
}
