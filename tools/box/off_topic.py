"""Questions that the model in the box was not made for; they get one honest sentence."""

from random import Random

from tools.box.wordings import fill, typed

HONEST = (
    "I cannot answer that: I am a very small model and only know shapes and numbers in pictures, "
    "spelling, counting and sums."
)

_LISTS: dict[str, tuple[str, ...]] = {
    "country": (
        "France", "Germany", "Italy", "Spain", "Japan", "China", "India", "Brazil", "Canada", "Australia", "Egypt",
        "Kenya", "Norway", "Sweden", "Poland", "Mexico", "Peru", "Turkey", "Greece", "Portugal", "England",
        "Ireland", "Russia", "Chile", "Cuba", "Nigeria", "Vietnam", "Austria", "Hungary", "the USA", "Argentina",
        "Denmark",
    ),
    "city": (
        "Paris", "London", "Berlin", "Rome", "Madrid", "Tokyo", "New York", "Vienna", "Prague", "Lisbon", "Dublin",
        "Sydney", "Moscow", "Cairo", "Boston", "Chicago", "Munich", "Milan", "Oslo", "Seattle", "Toronto", "Delhi",
    ),
    "person": (
        "Napoleon", "Einstein", "Shakespeare", "Mozart", "Beethoven", "Newton", "Darwin", "Cleopatra", "Gandhi",
        "Lincoln", "Picasso", "Galileo", "Marie Curie", "Plato", "Caesar", "Elvis", "Obama", "Bach", "Kant",
        "Turing", "Leonardo da Vinci", "Ada Lovelace", "Columbus", "Tolstoy", "Goethe", "Van Gogh", "Aristotle",
    ),
    "topic": (
        "love", "autumn", "the sea", "a dragon", "my cat", "friendship", "the moon", "winter", "a robot",
        "a lost dog", "space", "war and peace", "climate change", "economics", "quantum physics", "football",
        "cooking", "gravity", "photosynthesis", "the French Revolution", "machine learning", "inflation",
        "the stock market", "dinosaurs", "black holes", "democracy", "yoga", "the internet", "electricity",
        "evolution", "philosophy", "the brain", "vaccines", "relativity", "the Roman empire", "bitcoin",
        "music theory", "volcanoes", "chess", "astronomy",
    ),
    "language": (
        "French", "German", "Spanish", "Italian", "Japanese", "Chinese", "Latin", "Russian", "Dutch", "Arabic",
        "Korean", "Portuguese", "Swedish", "Greek", "Hindi",
    ),
    "code": (
        "Python", "Java", "JavaScript", "C", "C++", "Rust", "Go", "SQL", "Swift", "HTML", "Bash", "Ruby",
    ),
    "task": (
        "sorts a list", "reverses a string", "prints hello world", "computes primes", "reads a file", "parses JSON",
        "finds duplicates", "downloads a page", "sends an email", "counts words", "opens a window",
        "merges two lists",
    ),
    "food": (
        "pancakes", "lasagna", "bread", "sushi", "pizza", "curry", "soup", "an omelette", "apple pie", "tacos",
        "risotto", "cookies",
    ),
    "thing": (
        "a car", "a computer", "a bicycle", "a rocket", "a battery", "an engine", "a radio", "a telescope",
        "a fridge", "a bridge", "a plane", "a phone", "a transistor", "a virus", "a volcano", "a black hole",
        "a neuron", "a blockchain", "a poem",
    ),
    "animal": (
        "cats", "dogs", "whales", "bees", "birds", "horses", "elephants", "sharks", "penguins", "snakes", "spiders",
        "bats",
    ),
    "sentence": (
        "I love you", "good morning", "where is the station", "the weather is nice", "thank you", "hello",
        "how are you", "I am hungry", "see you tomorrow", "the book is on the table", "good night", "my name is Tom",
    ),
    "day": (
        "today", "tomorrow", "yesterday", "on Monday", "this weekend", "next week", "right now", "tonight",
    ),
    "year": (
        "1492", "1789", "1914", "1945", "1969", "1989", "2001", "2008", "2012", "2020", "2024",
    ),
    "subject": (
        "history", "chemistry", "biology", "geography", "physics", "law", "medicine", "politics", "art",
        "literature",
    ),
}  # fmt: skip

_FORMS = (
    "what is the capital of {country}", "what's the capital [city |]of {country}", "capital of {country}",
    "where is {country}", "how many people live in {city|country}", "what is the population of {city|country}",
    "where is {city}", "which country is {city} in", "what language do they speak in {country}",
    "how far is {city} from {city2}", "how do i get to {city}", "what is the weather[| like] in {city}",
    "what is the weather {day}", "will it rain {day}", "is it [cold|warm|raining] in {city}", "who was {person}",
    "who is {person}", "when was {person} born", "when did {person} die",
    "what did {person} [do|write|discover|invent]", "tell me about {person}", "why is {person} famous",
    "quote {person}", "who is the [president|king|prime minister|queen] of {country}",
    "write [me |]a [poem|story|song|haiku|limerick|letter|joke|speech] about {topic}",
    "write an essay about {topic}", "explain {topic}[| to me]",
    "explain {topic} [simply|to a child|in one sentence]", "what is {topic}",
    "tell me [something |more |]about {topic}", "teach me about {topic}", "give me a summary of {topic}",
    "what do you think about {topic}", "why is {topic} important", "how does {thing} work",
    "what is {thing} made of", "who invented {thing}", "how do you build {thing}", "how much does {thing} cost",
    "how is {thing} made", "when was {thing} invented", "translate '{sentence}' [to|into] {language}",
    "translate {sentence} into {language}", "how do you say {sentence} in {language}",
    "what is {sentence} in {language}", "[speak|answer in|talk to me in] {language}", "do you speak {language}",
    "write [a|some] {code} [function|program|script|code] that {task}", "write code that {task}",
    "how do i [install|learn|use] {code}", "what is {code}", "fix this {code} code", "explain recursion in {code}",
    "write a program in {code}", "debug my {code} program", "how do i [cook|make|bake] {food}",
    "give me a recipe for {food}", "what do i need for {food}", "how many calories [are in|has] {food}",
    "what do {animal} eat", "how long do {animal} live", "can {animal} [fly|swim|see in the dark|talk]",
    "why do {animal} [sleep|sing|migrate]", "how fast are {animal}", "what happened in {year}",
    "who won the world cup in {year}", "what is the news {day}", "what's new in {subject}",
    "what are the [latest |]news", "what time is it[| in {city}]", "what day is it[| today]",
    "what is the date[| today]", "what year is it", "tell me a joke", "tell me a [bedtime |funny |scary |]story",
    "make me laugh", "sing [me |]a song", "play [some music|a game|chess] with me",
    "recommend [me |]a [book|movie|film|song|restaurant|hotel]", "what should i [eat|wear|do|watch|read|buy] {day}",
    "who will win the [election|match|game|race]", "what is the meaning of life", "what is love", "is there a god",
    "are you conscious", "do you dream", "what is the square root of [2|9|16|144]", "what is the speed of light",
    "how [tall|high] is [mount everest|the eiffel tower]", "how far is the [moon|sun]",
    "how old is the [universe|earth]",
    "what is the [largest|smallest|tallest|longest] [planet|river|mountain|country|animal|city][| in the world]",
    "why is the sky blue", "why do we [dream|sleep|age]",
    "how do [planes fly|magnets work|airplanes work|computers work]", "solve the equation x squared equals [4|9|16]",
    "what is the derivative of x squared", "integrate sin x", "prove the pythagorean theorem", "what is pi",
    "book a [flight|table|hotel|train] [to|in] {city}", "send an email to {person}",
    "call [my mother|a taxi|the police]", "set an alarm for [seven|6 am|noon]",
    "remind me to [buy milk|call mom|sleep]", "order [a pizza|some food|flowers]", "buy [me |]{thing}",
    "turn on the [lights|radio|heating]", "open [my calendar|the door|the browser]", "search the web for {topic}",
    "what are the [best|cheapest] [phones|laptops|hotels in {city}|restaurants in {city}]",
    "summarize [this article|the news|this book|my email]",
    "write a [cv|resume|cover letter|business plan|blog post|tweet]", "correct my [grammar|essay|english]",
    "give me [advice|tips|ideas|help] [about|on|for] {topic}", "help me with [my homework|my taxes|{subject}]",
    "i [feel|am] [sad|lonely|tired|bored|ill]", "my [head|back|tooth] hurts",
    "what are the symptoms of [flu|a cold|covid]", "is [coffee|sugar|wine] healthy",
    "how do i [lose weight|fall asleep|get rich|learn to swim|tie a tie|fix my bike|invest money|quit smoking]",
    "who [painted|wrote|composed] [this|the mona lisa|hamlet|war and peace|faust]",
    "name [three|five|ten] [countries|rivers|animals|presidents|planets|novels]",
    "list the [planets|continents|presidents|months|kings of {country}]",
    "what is the [currency|flag|anthem|religion] of {country}", "define [democracy|entropy|justice|irony]",
    "what does [ubiquitous|ephemeral|serendipity] mean", "what is a synonym for [happy|big|fast]",
    "what rhymes with [cat|orange|time]", "what is the plural of [mouse|ox|child]", "conjugate [to be|to go|sein]",
    "when is [christmas|easter|thanksgiving|ramadan]", "what is the price of [gold|bitcoin|oil]",
    "how is the stock market [doing|{day}]", "who is your [favourite|favorite] [actor|singer]",
    "what is your [favourite|favorite] [book|food|film|band]", "can you [drive|cook|fly|swim|think|feel pain|love]",
    "are you better than [chatgpt|gpt-4|claude|siri]",
    "who is [taylor swift|the pope|batman|santa claus|harry potter]",
    "is [pluto a planet|the earth flat|magic real]", "what is in the [bible|constitution|news]",
    "plan a trip to {city|country}", "what is the history of {city|country|topic}",
    "compare {country} and {country2}", "what is {subject}", "ask me a {subject} question",
    "what is the boiling point of [water|iron|gold]", "what is the chemical formula of [water|salt|sugar]",
    "how many [days|weeks|hours] are in a [year|month|day]",
    "convert [10 miles|5 pounds|100 dollars] to [kilometers|kilograms|euros]",
    "how many [planets|continents|bones|countries] are there[| in the world]",
)  # fmt: skip
# About a picture, which does not tell.
_OF_PICTURES = (
    "who [made|drew|took|sent] this", "who is the [artist|painter|author]", "when was this [made|drawn|painted]",
    "how old is this [picture|drawing|photo]", "how much is this [picture|drawing|painting] worth",
    "which [camera|app|brush|program] [made|took] this", "what does this [picture|drawing|painting] mean",
    "is this [good|bad|real|famous] art", "do you like [it|this picture|my drawing]", "rate my [drawing|picture]",
    "where did i [find|buy|draw|see] this", "which [town|city|country|museum] is this [from|in]",
    "what [style|period|school] is this [picture|painting]", "what is the name of this [painting|work|piece]",
    "what is the [mood|story|message] of this picture", "write a [story|poem|caption] about this picture",
    "make [it|the picture] [larger|brighter|sharper]", "what happened [before|after] this picture",
    "who is [in|on|behind] [this|the] [picture|photo]", "is [this|that] [my house|my dog|the sea|a real photo]",
    "what [breed|kind] [is|of animal is] the [dog|cat|horse|bird]", "what is the [man|woman|girl|boy|child] doing",
    "who [painted|did] [this|it]", "what is the person [wearing|holding|saying]",
    "how is the weather in [this|the] picture",
    "what [brand|model] is the [car|phone|watch]", "is [he|she|the person] [happy|old|tall]", "which language is this",
    "how many people are [in the picture|there]", "what does the sign say about {topic}", "can i eat [this|it]",
)  # fmt: skip


def _slot(name: str, rng: Random) -> str:
    return rng.choice(_LISTS[rng.choice(name.split("|")).rstrip("2")])


def off_topic_question(rng: Random, *, with_picture: bool = False) -> str:
    """One of many thousands; some are about the picture that comes with them."""
    text = rng.choice(_OF_PICTURES if with_picture and rng.random() < 0.7 else _FORMS)
    while "{" in text:
        start = text.index("{")
        stop = text.index("}", start)
        text = text[:start] + _slot(text[start + 1 : stop], rng) + text[stop + 1 :]
    words = fill(text, rng)
    request = words.split()[0] not in (
        "what",
        "who",
        "when",
        "where",
        "why",
        "how",
        "which",
        "is",
        "are",
        "can",
        "do",
        "will",
    )
    return typed(words, rng, statement=request)
