import csv

TAX = 1.2


def read(path):
    with open(path) as file:
        return {row["sku"]: float(row["price"]) for row in csv.DictReader(file)}


def gross(price):
    return round(price * TAX, 2)
