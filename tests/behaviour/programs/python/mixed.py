import sys

number = int(sys.argv[1])
print("python", number, len(sys.stdin.read()))
print("error", number, file=sys.stderr)
with open("square.txt", "w") as file:
    print(number * number, file=file)
sys.exit(number % 100)
