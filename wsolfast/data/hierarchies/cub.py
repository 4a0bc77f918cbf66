"""The families and orders of the 200 species of CUB-200-2011: facts of taxonomy.

They follow the eBird/Clements Checklist of Birds of the World, version 2019, which covers species of all continents, as
the classes of CUB do. Two classes name a genus (``Geococcyx``, ``Sayornis``) and four a group of species
(``Cardinal``, ``Frigatebird``, ``Mockingbird``, ``Nighthawk``), all of which belong to one family.

The species make 37 families, as in DANet's CUB, and 12 orders. DANet has 11 orders. Which two of the 12 it holds
together is not known: this checklist separates cormorants and frigatebirds (Suliformes) from pelicans, as checklists
before 2010 do not, and includes hummingbirds in Caprimulgiformes, as others do not.
"""

LEVELS = ("family", "order")

# Order -> family -> species, by the names of CUB's classes.txt without their numbers.
ORDERS = {
    "Anseriformes": {
        "Anatidae": "Gadwall Mallard Hooded_Merganser Red_breasted_Merganser",
    },
    "Podicipediformes": {
        "Podicipedidae": "Eared_Grebe Horned_Grebe Pied_billed_Grebe Western_Grebe",
    },
    "Cuculiformes": {
        "Cuculidae": "Groove_billed_Ani Black_billed_Cuckoo Mangrove_Cuckoo Yellow_billed_Cuckoo Geococcyx",
    },
    "Caprimulgiformes": {
        "Caprimulgidae": "Chuck_will_Widow Nighthawk Whip_poor_Will",
        "Trochilidae": "Anna_Hummingbird Ruby_throated_Hummingbird Rufous_Hummingbird Green_Violetear",
    },
    "Charadriiformes": {
        "Alcidae": "Crested_Auklet Least_Auklet Parakeet_Auklet Rhinoceros_Auklet Pigeon_Guillemot Horned_Puffin",
        "Laridae": "California_Gull Glaucous_winged_Gull Heermann_Gull Herring_Gull Ivory_Gull Ring_billed_Gull "
        "Slaty_backed_Gull Western_Gull Red_legged_Kittiwake Artic_Tern Black_Tern Caspian_Tern Common_Tern "
        "Elegant_Tern Forsters_Tern Least_Tern",
        "Stercorariidae": "Long_tailed_Jaeger Pomarine_Jaeger",
    },
    "Gaviiformes": {
        "Gaviidae": "Pacific_Loon",
    },
    "Procellariiformes": {
        "Diomedeidae": "Black_footed_Albatross Laysan_Albatross Sooty_Albatross",
        "Procellariidae": "Northern_Fulmar",
    },
    "Suliformes": {
        "Fregatidae": "Frigatebird",
        "Phalacrocoracidae": "Brandt_Cormorant Red_faced_Cormorant Pelagic_Cormorant",
    },
    "Pelecaniformes": {
        "Pelecanidae": "Brown_Pelican White_Pelican",
    },
    "Coraciiformes": {
        "Alcedinidae": "Belted_Kingfisher Green_Kingfisher Pied_Kingfisher Ringed_Kingfisher White_breasted_Kingfisher",
    },
    "Piciformes": {
        "Picidae": "Northern_Flicker American_Three_toed_Woodpecker Pileated_Woodpecker Red_bellied_Woodpecker "
        "Red_cockaded_Woodpecker Red_headed_Woodpecker Downy_Woodpecker",
    },
    "Passeriformes": {
        "Alaudidae": "Horned_Lark",
        "Bombycillidae": "Bohemian_Waxwing Cedar_Waxwing",
        "Cardinalidae": "Indigo_Bunting Lazuli_Bunting Painted_Bunting Cardinal Blue_Grosbeak Rose_breasted_Grosbeak "
        "Scarlet_Tanager Summer_Tanager",
        "Certhiidae": "Brown_Creeper",
        "Corvidae": "American_Crow Fish_Crow Blue_Jay Florida_Jay Green_Jay Clark_Nutcracker Common_Raven "
        "White_necked_Raven",
        "Fringillidae": "Gray_crowned_Rosy_Finch Purple_Finch American_Goldfinch European_Goldfinch Evening_Grosbeak "
        "Pine_Grosbeak",
        "Hirundinidae": "Bank_Swallow Barn_Swallow Cliff_Swallow Tree_Swallow",
        "Icteridae": "Brewer_Blackbird Red_winged_Blackbird Rusty_Blackbird Yellow_headed_Blackbird Bobolink "
        "Bronzed_Cowbird Shiny_Cowbird Boat_tailed_Grackle Western_Meadowlark Baltimore_Oriole Hooded_Oriole "
        "Orchard_Oriole Scott_Oriole",
        "Icteriidae": "Yellow_breasted_Chat",
        "Laniidae": "Loggerhead_Shrike Great_Grey_Shrike",
        "Mimidae": "Gray_Catbird Mockingbird Brown_Thrasher Sage_Thrasher",
        "Motacillidae": "American_Pipit",
        "Parulidae": "Ovenbird American_Redstart Bay_breasted_Warbler Black_and_white_Warbler "
        "Black_throated_Blue_Warbler Blue_winged_Warbler Canada_Warbler Cape_May_Warbler Cerulean_Warbler "
        "Chestnut_sided_Warbler Golden_winged_Warbler Hooded_Warbler Kentucky_Warbler Magnolia_Warbler "
        "Mourning_Warbler Myrtle_Warbler Nashville_Warbler Orange_crowned_Warbler Palm_Warbler Pine_Warbler "
        "Prairie_Warbler Prothonotary_Warbler Swainson_Warbler Tennessee_Warbler Wilson_Warbler Worm_eating_Warbler "
        "Yellow_Warbler Northern_Waterthrush Louisiana_Waterthrush Common_Yellowthroat",
        "Passerellidae": "Eastern_Towhee Dark_eyed_Junco Baird_Sparrow Black_throated_Sparrow Brewer_Sparrow "
        "Chipping_Sparrow Clay_colored_Sparrow Field_Sparrow Fox_Sparrow Grasshopper_Sparrow Harris_Sparrow "
        "Henslow_Sparrow Le_Conte_Sparrow Lincoln_Sparrow Nelson_Sharp_tailed_Sparrow Savannah_Sparrow "
        "Seaside_Sparrow Song_Sparrow Tree_Sparrow Vesper_Sparrow White_crowned_Sparrow White_throated_Sparrow "
        "Green_tailed_Towhee",
        "Passeridae": "House_Sparrow",
        "Ptilonorhynchidae": "Spotted_Catbird",
        "Sittidae": "White_breasted_Nuthatch",
        "Sturnidae": "Cape_Glossy_Starling",
        "Troglodytidae": "Bewick_Wren Cactus_Wren Carolina_Wren House_Wren Marsh_Wren Rock_Wren Winter_Wren",
        "Tyrannidae": "Acadian_Flycatcher Great_Crested_Flycatcher Least_Flycatcher Olive_sided_Flycatcher "
        "Scissor_tailed_Flycatcher Vermilion_Flycatcher Yellow_bellied_Flycatcher Tropical_Kingbird Gray_Kingbird "
        "Western_Wood_Pewee Sayornis",
        "Vireonidae": "Black_capped_Vireo Blue_headed_Vireo Philadelphia_Vireo Red_eyed_Vireo Warbling_Vireo "
        "White_eyed_Vireo Yellow_throated_Vireo",
    },
}
ANCESTORS = {
    species: (family, order)
    for order, families in ORDERS.items()
    for family, listed in families.items()
    for species in listed.split()
}
