"""Distribution: items on workers, rows exchanged through the store. The only room that imports ray."""
