const char *language = "c++";
