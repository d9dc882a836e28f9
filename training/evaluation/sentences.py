"""Benchmarks time these invented sentences of 20 to 30 words, which read like news."""

SENTENCES = (
    "The harbour master of Dunmore told Radio Estuary that no ferry to Saint Brendan would leave "
    "before the storm had passed over the bay.",
    "After nine years at Halden Instruments, Marta Kowalczyk moved to Lisbon, where she now runs a "
    "small school for people who repair old clocks.",
    "Shares of Pelican Freight fell by four percent on Monday because two of its largest customers "
    "had signed contracts with a rival from Rotterdam.",
    "In the second half Tomas Berg scored twice, and United Rovers held on to win their first match "
    "in Aberdeen since the spring of 1998.",
    "Nobody at the town hall could say who had ordered the new benches, how much they had cost, or "
    "why all of them faced the wall.",
    "The Ministry of Transport in Nairobi has asked Lakeside Rail to explain why the night train to "
    "Kisumu was late on eleven days in June.",
    "Professor Ana Lúcia Ferraz of the University of Recife will receive the prize for her work on "
    "mangroves at a ceremony in Geneva next autumn.",
    "A court in Osaka ordered Minato Foods to pay its former suppliers, although the company says "
    "that it never received the letters they had sent.",
    "When the bridge at Novy Most was closed, drivers had to go through three villages, and the "
    "bakery in the second one sold out by eight.",
    "Mr. Okonkwo, who chairs the Harbour Trust, said the museum would open on time even if the roof "
    "of its east wing was not yet finished.",
    "According to a survey by Brightwater Bank, most shops in northern Wales expect prices to rise "
    "more slowly this winter than they did a year ago.",
    "The orchestra will play in Vienna, Graz and Ljubljana before it returns to Sydney, where Helen "
    "Park takes over as its conductor early in March.",
    "It rained for so long that the lower fields turned into a lake, and the children rowed across it "
    "to school every morning for a week.",
    "Engineers from Voltaic Systems spent the night in the tunnel under Mount Ida, looking for the "
    "fault that had stopped every lift in the station.",
    "Senator Ruiz and Governor Lindqvist met in Santa Fe to talk about water, and both left without "
    "answering a single question from the reporters outside.",
    "The letters that Captain James Whitlock wrote from Cape Town to his sister in Cork were found in "
    "a tin box under the floor last summer.",
    "Northwind Energy plans to build sixty turbines off the coast of Jutland, but fishermen from "
    "Esbjerg say that the best grounds lie exactly there.",
    "She had read every book in the library of Port Ellis twice, so her uncle Samuel sent her more of "
    "them from Montreal with each ship.",
    "The Red Lantern Theatre has cancelled its tour of South Korea after Jin Watanabe, who plays the "
    "old king, broke his arm during a rehearsal.",
    "Two goats escaped from a farm near Ballymore on Tuesday, walked four miles along the motorway, "
    "and were found asleep in front of a bank.",
)
