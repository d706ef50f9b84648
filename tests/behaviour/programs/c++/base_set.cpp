#include <iconv.h>
#include <netdb.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

int main()
{
    char text[80];
    time_t zero = 0;

    setenv("TZ", "America/New_York", 1);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M %Z", localtime(&zero));
    puts(text);
    unsetenv("TZ");
    if (getservbyname("http", "tcp") == nullptr)
        puts("getservbyname");
    char in[] = "\xe9", *from = in, out[8] = "", *to = out;
    size_t left = 1, room = sizeof out;
    iconv_t latin = iconv_open("UTF-8", "ISO-8859-1");
    if (latin == (iconv_t)-1 || iconv(latin, &from, &left, &to, &room) || strcmp(out, "\u00e9"))
        puts("iconv");
    fflush(stdout);
    return system("bash base_set.sh");
}
