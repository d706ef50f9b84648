int main()
{
    throw 42; // which nobody catches: std::terminate aborts
}
