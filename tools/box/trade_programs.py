"""Programs that buy, book and travel: lists, orders, prices, routes, flights, tables, hotels."""

from random import Random

from tools.box import program_values as values
from tools.box.about_values import title
from tools.box.lexicon import WORDS, word
from tools.box.programs import CITY, DAY, DONE, LIMIT, TIME, P, Program, Slot, choice, count, fields, of, some

_SHOPS = ("groceries", "shopping", "hardware", "packing", "party", "gift")


def _order(rng: Random) -> str:
    """'4711', 'A-203', 'ORD-88'."""
    letters = rng.choice(["", "", "A-", "ORD-", "B", "#", "X"])
    return f"{letters}{rng.randint(10, 99999)}"


def _price(rng: Random) -> float:
    return rng.choice([float(rng.randint(1, 900)), rng.randint(100, 9999) / 100])


def _things(rng: Random) -> list[str]:
    return rng.sample(WORDS, rng.randint(2, 4))


TRADE_PROGRAMS = (
    Program("shopping", ("add_to_shopping_list", "shopping_list_add", "add_item", "addItem", "add_to_list",
                         "shopping_list", "remember_item"),
            ("Add something to the shopping list.", "Puts an item on the list", "Shopping list",
             "Put a thing on the shopping list."),
            {"item": Slot(("item", "product", "thing", "entry"), word, ("What to buy", "The item")),
             "amount": count(("quantity", "count", "amount"), 60, "How many", tails=("{} of them", "quantity {}"))},
            (P + "[put|add] {item} [on|to] [my|the] [shopping |]list.", "we need {item}.", "we are out of {item}.",
             P + "add {amount} {item} to the list.", "buy {item}.", "i need {amount} {item}.", "{item} on the list",
             "i need to buy {item}."),
            DONE, "It is on the list.", again=("and {item}.", "also {item}.", "{item} too.", "and {amount} {item}.")),
    Program("shopping", ("add_items", "shopping_add", "add_all", "buy_items"),
            ("Put several things on the shopping list.", "Adds items to the list", "Shopping list, many at once"),
            {"items": Slot(("items", "things", "products"), _things, ("What to buy",), kind="array")},
            (P + "add {items} to my shopping list.", "put {items} on the list.", "i need {items}.",
             "we need to buy {items}.", "shopping: {items}"),
            DONE, "Done.", again=("and {items}.", "also {items}.", "{items} too.")),
    Program("lists", ("get_list", "show_list", "read_list", "getList", "shopping_list_get"),
            ("Show what is on a list.", "Returns the items of a list", "Read the user's list"),
            {"name": Slot(("list_name", "list", "name"), of(*_SHOPS), ("Which list", "Name, e.g. {e}"))},
            ("what's on my list", "what is on my {name} list", "show [me |]my [shopping |]list.", "my list",
             "show [me |]my {name} list.", "{name} list", "read my list.", "what do i have to buy",
             "is there anything on my list"),
            some(word), "There is: {result}.",
            again=("and the {name} list", "what about the {name} list", "and on the {name} one")),
    Program("orders", ("get_order", "order_status", "track_order", "getOrderStatus", "lookup_order"),
            ("Get the state of an order.", "Looks up an order by its id", "Tracks an order"),
            {"order": Slot(("order_id", "id", "order", "orderNumber"), _order, ("Id of the order, e.g. {e}",
                           "Order number"))},
            ("where is [my |]order {order}", "what is the status of order {order}", "order {order}", "status of "
             "{order}", P + "track {order}.", "is {order} [shipped|sent|paid]", P + "check order {order}."),
            fields(status=of("shipped", "paid", "pending", "delivered", "cancelled", "packed", "on its way"),
                   total=_price, arrives=values.day, carrier=of("DHL", "UPS", "FedEx", "the post")),
            "Order {order} is {status}.",
            {"Order {order} arrives {arrives}.": ("when does [order |]{order} arrive", "when will i get {order}"),
             "Order {order} costs {total}.": ("how much [is|was] order {order}", "total of order {order}"),
             "{carrier} brings it.": ("who [brings|delivers] order {order}", "which carrier has {order}")},
            again=("and {order}", "what about {order}", "same for {order}.", "and order {order}")),
    Program("order", ("place_order", "create_order", "buy_product", "placeOrder", "order_product"),
            ("Order a product.", "Places an order in the shop", "Buys something"),
            {"item": Slot(("product", "item", "product_name"), word, ("What to order",)),
             "amount": count(("quantity", "amount", "count"), 20, "How many", tails=("quantity {}", "{} of them")),
             "speed": choice(("shipping", "delivery"), "standard", "express", about="How fast",
                             tails=("{} shipping", "{} delivery", "with {} shipping"))},
            (P + "order {item}.", P + "order {amount} {item}.", "place an order for {item}.",
             "{amount} {item}, order it.", P + "order {item} with {speed} shipping."),
            fields(id=_order, status=of("confirmed", "placed", "accepted", "pending")),
            "The order {id} is {status}.", again=("and {amount} {item}.", "and {item} too.", "also {item}.")),
    Program("price", ("get_price", "product_price", "price_check", "getPrice", "lookup_product"),
            ("Get the price of a product.", "Price and stock of an item in the shop", "Looks up what a product costs"),
            {"item": Slot(("product", "item", "name"), word, ("The product, e.g. {e}",)),
             "currency": choice(("currency",), "USD", "EUR", "GBP", about="Currency code", tails=("in {}",))},
            ("how much is [the |a |]{item}", "price of {item}", "what does [the |a |]{item} cost", "{item} price",
             "what is the price of {item} in {currency}", "how much for {item}"),
            fields(price=_price, unit=of("USD", "EUR", "GBP", "CHF"), stock=lambda rng: rng.randint(0, 90),
                   shelf=_order),
            "It costs {price} {unit}.",
            {"There are {stock} in stock.": ("how many {item} are in stock", "do we have {item}[ in stock|]"),
             "It is on shelf {shelf}.": ("where is the {item} in the shop", "which shelf is {item} on")},
            again=("and {item}", "what about {item}", "same for {item}.", "and the {item}")),
    Program("route", ("get_directions", "navigate", "find_route", "getRoute", "directions"),
            ("Get directions between two places.", "Finds a route", "Navigation from one place to another"),
            {"one": Slot(("origin", "from", "start"), values.city, ("Where it begins", "Start, e.g. {e}")),
             "other": Slot(("destination", "to", "end"), values.city, ("Where it ends", "Goal, e.g. {e}")),
             "mode": choice(("mode", "by"), "car", "bike", "train", "foot", tails=("by {}",))},
            ("how do i get from {one} to {other}", P + "navigate [me |]to {other}.", "route from {one} to {other}.",
             "directions to {other}.", "what is the way from {one} to {other}", "take me to {other}.",
             "{one} to {other}", "{one} to {other} by {mode}"),
            fields(distance=lambda rng: f"{rng.randint(5, 900)} km", hours=lambda rng: rng.randint(1, 12),
                   road=lambda rng: f"{rng.choice('ABEM')}{rng.randint(1, 99)}"),
            "It is {distance}.",
            {"It takes {hours} hours.": ("how long does it take [from {one} |]to {other}", "how many hours is it to "
                                         "{other}"),
             "Take the {road}.": ("which road goes to {other}",)},
            again=("and to {other}", "and by {mode}", "what about {other}", "and from {one}")),
    Program("flight", ("search_flights", "book_flight", "find_flights", "flightSearch", "find_flight", "flights"),
            ("Search flights between cities.", "Finds and books flights", "Look for a flight on a date",
             "Find a flight from one city to another."),
            {"one": Slot(("origin", "from", "departure", "start"), values.city, ("From where",)),
             "other": Slot(("destination", "to", "arrival", "goal"), values.city, ("To where",)), "day": DAY,
             "seat": choice(("class", "seat_class", "cabin"), "economy", "business", "first",
                            tails=("{} class", "in {} class"))},
            ("[find|book|search] [me |]a flight from {one} to {other}[ on {day}|].", "flights from {one} to {other}.",
             "i [want|have] to fly from {one} to {other} on {day}.", "flights {one} {other}",
             "is there a flight from {one} to {other} on {day}", "fly {one} to {other} {day}"),
            fields(flight=lambda rng: f"{rng.choice(['LH', 'BA', 'AF', 'KL'])}{rng.randint(10, 999)}", fare=_price,
                   leaves=values.clock),
            "Flight {flight} leaves at {leaves}.",
            {"It costs {fare}.": ("how much is a flight from {one} to {other}", "price of a flight from {one} to "
                                  "{other}"),
             "It leaves at {leaves}.": ("when is the [next |]flight from {one} to {other}",)},
            again=("and to {other}", "and on {day}", "what about {day}", "and from {one}")),
    Program("table", ("book_table", "reserve_table", "make_reservation", "bookRestaurant"),
            ("Book a table in a restaurant.", "Makes a reservation", "Reserve seats"),
            {"place": Slot(("restaurant", "place", "name"), title, ("Name of the restaurant", "Where")),
             "people": count(("people", "party_size", "guests"), 12, "How many people"), "time": TIME, "day": DAY},
            (P + "[book|reserve] a table for {people} at {place}[ at {time}|].",
             "table for {people} at {place}, {time}.", "table for {people} {day}",
             P + "[book|reserve] a table for {people}[ people|] {day}[ at {time}|].",
             P + "[book|reserve] a table at {place} for {people} [people |]on {day} at {time}."),
            fields(code=_order, status=of("booked", "confirmed", "reserved")), "The table is {status}.",
            again=("make it {people}.", "and one on {day}.", "at {time} instead.")),
    Program("hotel", ("search_hotels", "find_hotels", "book_hotel", "hotelSearch"),
            ("Search hotels in a city.", "Finds a room for some nights", "Look for a place to stay"),
            {"city": CITY, "nights": count(("nights", "length", "stay"), 20, "How many nights",
                                           tails=("for {} nights", "{} nights")),
             "day": DAY, "limit": LIMIT},
            ("[find|book|search] [me |]a hotel in {city}[ please|].", "hotels in {city} for {nights} nights.",
             "i need a room in {city} from {day}.", "a hotel in {city} for {nights} nights from {day}.",
             "where can i [stay|sleep] in {city}", "hotel {city}", "hotels in {city}"),
            some(title), "There is: {result}.",
            again=("and in {city}", "what about {city}", "for {nights} nights.", "same for {city}."),
            it=("[now |and |]find me a hotel there.", "any hotels there", "where can i stay there")),
)  # fmt: skip
