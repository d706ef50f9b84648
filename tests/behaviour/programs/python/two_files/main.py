import greeting

print(greeting.text("python"))
