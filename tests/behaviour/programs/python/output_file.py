with open("result.txt", "w", encoding="utf-8") as file:
    file.write("the result is 42\n")
