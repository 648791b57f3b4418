"""Small talk, feelings, everyday advice, how-to steps, definitions and general questions.

Reads: nothing. Writes: nothing. Refuses: nothing.

Each block is a list of entries: questions, one a line with "/" between several wordings, then answers
after "=>", again with "/" between several, then after "::" the words of which a right answer has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from .core import lines


@dataclass(frozen=True)
class Entry:
    """Some wordings of one question, its answers, and the acceptable words."""

    questions: list[str]
    answers: list[str]
    expect: list[str]


def entries(text: str) -> list[Entry]:
    """Parse a block; one entry a line."""
    found = []
    for line in lines(text):
        left, _, rest = line.partition("=>")
        right, _, words = rest.partition("::")
        questions = [q.strip() for q in left.split("/") if q.strip()]
        answers = [a.strip() for a in right.split("/") if a.strip()]
        if not questions or not answers:
            raise ValueError(f"no question or no answer in {line!r}")
        found.append(Entry(questions, answers, [w.strip() for w in words.split("/") if w.strip()]))
    return found


SMALL_TALK = entries("""
Hello / Hello! / Hi / Hi! / Hi there! / Hello there / Hey / Good day => Hello! How can I help you? / Hi! What would you like to know? / Hello! Nice to meet you.
Good morning / Good morning! / Good morning to you => Good morning! How can I help you? / Good morning! I hope you slept well.
Good evening / Good evening! / Good evening to you => Good evening! How can I help you? / Good evening! I hope you had a good day.
Good night / Good night! / I am going to bed now / Sleep well => Good night! Sleep well. / Good night! See you tomorrow.
Goodbye / Bye / Bye bye / See you later / See you tomorrow / I have to go now => Goodbye! Have a nice day. / Bye! See you soon. / Goodbye! It was nice to talk to you.
Thank you / Thanks / Thank you very much / Thanks a lot / Thank you for your help / That is very helpful / Many thanks => You are welcome! / You are welcome. I am happy to help. / No problem!
How are you? / How are you today? / How do you do? / How is it going? / Are you well? => I am fine, thank you. How are you? / I am very well, thank you. / I am fine. How can I help you?
I am fine / I am fine, thank you / I am well / Very well, thanks => I am happy to hear that. / That is good. How can I help you?
Who are you? / What are you? / Tell me who you are. / Can you tell me about yourself? / Introduce yourself. / Please introduce yourself. => I am a small demonstration model. I can answer simple questions. / I am a small language model for demonstrations. / I am a small demonstration model. :: model
What is your name? / Do you have a name? / How are you called? / What should I call you? / Tell me your name. => I have no name. I am a small demonstration model. / I am a small demonstration model. You can call me Starter. :: model
Are you a person? / Are you a human? / Are you a real person? / Am I talking to a person? / Are you a man or a machine? / Are you a robot? => No, I am a small language model. / I am not a person. I am a small demonstration model. :: model
What can you do? / What do you know? / How can you help me? / What can I ask you? / What kind of questions can you answer? / What are you good at? => I can answer simple questions about animals, colours, countries and numbers. / I can answer simple questions in short sentences. / I know some simple facts. You can ask me about animals or numbers. :: simple
Can you help me? / I need help / I need your help / Please help me / Help => Yes, of course. What do you need? / I will try to help. What is your question? / Of course. Please tell me more. :: course/help
Do you know everything? / Are you very clever? / Are you smart? / Do you make mistakes? / Can I trust you? => No, I am a small model and I can make mistakes. / I know only a few simple things. Please check what I say. :: small/simple
How old are you? / What is your age? / When were you born? => I have no age. I am a computer model. / I am a model, so I have no birthday. :: model
Where do you live? / Where are you? / Where are you from? / Where is your home? => I live in a computer. / I am a computer model, so I have no home. :: computer
Do you eat? / Are you hungry? / Do you sleep? / Are you tired? / Can you see me? / Can you hear me? => No, I am a computer model. / No. I am a small model and have no body. :: no
Do you speak English? / Which language do you speak? / What languages do you speak? / Can you speak German? / Can you speak English? => I speak simple English. / I know only simple English. :: english
Can I ask you something? / May I ask a question? / I have a question / Can I ask you a question? => Yes, of course. What is your question? / Of course! Please ask. :: course
What time is it? / Can you tell me the time? / What is the time now? / How late is it? => I do not know the time. Please look at a clock. / I have no clock. Please look at your phone. :: clock/phone
What day is today? / What is the date today? / Which day is it today? => I do not know the date. Please look at a calendar. / I have no calendar, so I do not know. :: calendar
How is the weather today? / What is the weather like? / Will it rain today? / Is it cold outside? => I cannot see the weather. Please look out of the window. / I do not know. Please look outside. :: window/outside
Yes / OK / Okay / I see / All right / Good => Good. Is there anything else? / Good! What else would you like to know?
No / No, thank you / Nothing else / That is all => All right. Have a nice day! / Good. Have a nice day!
I do not understand / What do you mean? / I did not understand that => I am sorry. Please ask me in other words. / I am sorry. Please try a simple question. :: sorry
You are wrong / That is wrong / This is not right / You made a mistake => I am sorry. I am a small model and I make mistakes. / I am sorry. Please try again. :: sorry
You are nice / I like you / You are very kind / Well done / Good job => Thank you! That is very kind. / Thank you. I am happy to hear that. :: thank
Are you happy? / Do you have feelings? / Can you feel? => I am a model and have no feelings, but I like to help. / I have no feelings. I am a computer model. :: model
Tell me a joke. / Do you know a joke? / Make me laugh. => Why did the hen cross the road? To get to the other side! / What has hands but cannot clap? A clock! :: hen/clock
Sing me a song. / Can you sing? => I cannot sing, but I can tell you a story. / I am sorry, I cannot sing. :: cannot
What is your favourite colour? / Which colour do you like? => I am a model, but I think blue is nice. / I think blue is a nice colour. :: blue
What is your favourite animal? / Which animal do you like? => I think cats are very nice. / I am a model, but I like cats. :: cat/cats
What is your favourite food? / What do you like to eat? => I cannot eat, but apples look nice. / I am a model, so I do not eat. :: eat
Do you have a family? / Do you have friends? / Do you have a brother? => No, I am a computer model. / I have no family, but I like to talk to people. :: no
""")

# how the person feels, and short polite suggestions
_FEELING_QUESTIONS = lines("""
I am {feeling}.
I am {feeling}
I feel {feeling}.
I am very {feeling} today.
I am so {feeling}. What should I do?
What can I do when I am {feeling}?
What should I do if I feel {feeling}?
I feel a bit {feeling}. Do you have an idea?
Today I am {feeling}.
What helps when you are {feeling}?
My friend is {feeling}. What can I do?
What is good to do when I feel {feeling}?
""")
_FEELINGS = """
tired|You should rest a little. A short sleep can help. ~ Try to sleep early tonight. ~ Please take a break and rest.|sleep/rest
hungry|You should eat something. A piece of bread or an apple is good. ~ Please eat a good meal. ~ You could make a sandwich and eat it.|eat/sandwich
thirsty|You should drink a glass of water. ~ Please drink some water or tea. ~ A cold glass of water can help.|water
cold|Put on a warm coat and drink hot tea. ~ You should wear warm clothes. ~ A warm blanket can help.|warm
hot|Drink cold water and sit in the shade. ~ You should open a window and drink water. ~ A cold drink can help.|water/drink
sad|I am sorry to hear that. Talk to a good friend. ~ I am sorry. A walk or a talk with a friend can help. ~ It is all right to be sad. Music can help.|sorry/sad
bored|You could read a book or go for a walk. ~ Try to learn something new. ~ Why not play a game with a friend?|book/learn/game
angry|Take a deep breath and count to ten. ~ Please wait a little and breathe slowly. ~ A short walk can help you to be calm.|breath/breathe/walk
ill|I am sorry to hear that. Please stay in bed and see a doctor. ~ You should rest and drink tea. ~ Please go to a doctor.|doctor/rest
sick|I am sorry to hear that. Please see a doctor. ~ You should stay in bed and rest. ~ Please rest and drink warm tea.|doctor/rest
lonely|I am sorry. You could call a friend. ~ Try to meet people, for example in a club. ~ Talk to your family or call a friend.|friend/people
afraid|Take a deep breath. Talk to someone you trust. ~ It is all right to be afraid. A friend can help you. ~ Please tell somebody about it.|breath/friend/somebody
nervous|Take a deep breath. You can do it. ~ Breathe slowly and think of something nice. ~ A short walk can help you to be calm.|breath/breathe/walk
happy|I am glad to hear that! Enjoy the day. ~ That is wonderful! Share it with a friend. ~ That is very good to hear.|glad/wonderful/good
late|Please hurry, but be careful. ~ You could call and say that you will be late. ~ Stay calm and call your friend.|hurry/call
lost|Look at a map or ask somebody for the way. ~ Please ask a police officer for help. ~ Stay calm and look at a map.|map/ask
wet|You should change your clothes and get dry. ~ Take a towel and put on dry clothes. ~ Dry your hair and drink warm tea.|dry
dirty|You should wash with soap and water. ~ Please take a shower. ~ Wash your hands and your face.|wash/shower
busy|Do one thing at a time. ~ Make a list and start with the first thing. ~ Take a short break now and then.|one/list/break
stressed|Take a break and breathe slowly. ~ You could go for a walk in the park. ~ Do one thing at a time and rest.|break/walk/one
excited|That is great! I hope you have a good time. ~ That sounds great! Enjoy it. ~ How nice! Have a lot of fun.|great/nice
confused|Please ask me a simple question. ~ Take it step by step. ~ Let us go slowly, one step at a time.|simple/step
sleepy|You should go to bed early. ~ Have a short sleep. ~ Close your eyes and sleep a little.|bed/sleep
worried|I am sorry to hear that. Talk to somebody you trust. ~ Write down what worries you. ~ A talk with a friend can help.|talk/write
weak|You should rest and eat well. ~ Please eat good food and sleep a lot. ~ If it does not get better, see a doctor.|rest/eat/doctor
full|Then you should take a slow walk. ~ Rest a little after the meal. ~ A short walk is good after a big meal.|walk/rest
"""
_PROBLEMS = entries("""
I cannot sleep. / I can't sleep at night. What can I do? / What can I do when I cannot sleep? / I sleep badly. => Try to read a quiet book before bed. / Turn off the light and drink warm milk. / Go to bed at the same time each night. :: book/milk/bed
I have a headache. / My head hurts. / My head hurts. What should I do? / What can I do about a headache? => I am sorry to hear that. Drink water and rest in a dark room. / You should rest and drink some water. :: rest/water
I have a cold. / I have a bad cold. What helps? / What can I do when I have a cold? / My nose is running. => Drink hot tea and stay in bed. / You should rest, stay warm and drink tea. :: tea
My tooth hurts. / I have a toothache. / What should I do when my tooth hurts? => I am sorry. You should go to a dentist. / Please see a dentist soon. :: dentist
I cut my finger. / My finger is bleeding. / What should I do when I cut my finger? => Wash it with water and put a plaster on it. / Clean the cut and use a plaster. :: plaster
My cat is ill. / My dog is sick. / What should I do when my dog is ill? / My pet is sick. => I am sorry. Please take it to a vet. / You should go to a vet. :: vet
My room is dark. / It is too dark here. / It is dark in my room. What can I do? => Turn on the lamp. / You can turn on a lamp or open the curtains. :: lamp
My hands are dirty. / What should I do when my hands are dirty? / I have dirty hands. => Wash your hands with soap and water. / You should wash them with soap. :: soap/wash
It is my birthday. / Today is my birthday. / I have my birthday today. => Happy birthday! Have a wonderful day. / Happy birthday! I wish you all the best. :: happy
I have an exam tomorrow. / I have a test at school tomorrow. / Tomorrow I have a test. => Good luck! Read your notes and sleep well. / Learn a little, sleep well, and good luck! :: luck
I want to learn English. / How can I learn English? / I would like to learn English. What should I do? => Read simple books and speak every day. / You could read, listen and speak a little each day. :: read
I want to be healthy. / How can I stay healthy? / What should I do to be healthy? / What is good for my health? => Eat fruit, sleep well and move every day. / Eat good food and go for a walk each day. :: eat
I want to make friends. / How can I find friends? / How do I make new friends? => Be kind and talk to people. / Join a club and be kind to people. :: kind
There is a fire! / My house is on fire! / What should I do when there is a fire? => Leave the house and call the fire station at once. / Go outside and call for help. :: call
I am lost in the city. / I cannot find my way. / I do not know the way home. => Look at a map or ask a police officer. / Ask somebody for the way. :: ask/map
I broke a glass. / I dropped a glass on the floor. / What should I do when a glass breaks? => Be careful. Use a broom to clean the floor. / Please take a broom and sweep it up. :: broom
My phone is wet. / My phone fell into the water. => Turn it off and let it dry. / Dry it with a towel and wait a day. :: dry
I have no money. / I have little money. What should I do? => Write down what you spend and buy only what you need. / Make a plan for your money. :: need/plan
My friend is angry with me. / I had a fight with my friend. / My friend does not talk to me. => Say that you are sorry and listen to your friend. / Talk to your friend and say sorry. :: sorry
My baby is crying. / The baby cries. What should I do? / Why is my baby crying? => Maybe the baby is hungry or tired. / The baby may need milk or sleep. :: hungry/milk
I have too much to do. / I have a lot of work. / There is so much to do. => Make a list and start with one thing. / Do one thing at a time. :: one
What should I eat today? / What can I cook today? / I do not know what to cook. / What shall I have for dinner? => You could make soup and bread. / How about rice with vegetables? / You could cook some potatoes with cheese. :: soup/rice/potatoes
What should I do today? / What can I do on a rainy day? / What can I do at the weekend? / Do you have an idea for today? => You could read a book or visit a friend. / You could go for a walk or bake a cake. :: book/walk
What should I wear today? / What can I wear? => Look at the weather first. When it is cold, wear a coat. / Wear a coat if it is cold. :: coat
What should I give my friend for her birthday? / I need a present for my mother. / What is a good present? => You could give her a book or flowers. / Flowers or a nice book are a good present. :: flowers/book
""")

_HOW_TO_FORMS = lines("""
How do I {task}?
How can I {task}?
How do you {task}?
How does one {task}?
What do I have to do to {task}?
Tell me how to {task}.
I want to {task}. How do I do that?
Please explain how to {task}.
What is the best way to {task}?
Can you tell me how to {task}?
Do you know how to {task}?
I would like to {task}. What should I do?
""")
_HOW_TO = """
make tea|Boil some water and pour it on the tea. Wait three minutes. ~ First boil water. Then pour it over the tea leaves and wait.|water
make coffee|Boil water and pour it on the coffee. ~ Put coffee in a filter and pour hot water on it.|water
boil an egg|Put the egg in hot water and wait eight minutes. ~ Boil water and cook the egg for eight minutes.|water
fry an egg|Heat a pan with butter and break the egg into it. ~ Put some butter in a pan and fry the egg.|pan
make a sandwich|Take two slices of bread and put cheese between them. ~ Put cheese or ham on bread and close it.|bread
make toast|Put a slice of bread in the toaster and wait. ~ Put bread in the toaster until it is brown.|bread
cook rice|Cook the rice in water for fifteen minutes. ~ Wash the rice and cook it in hot water.|water
cook pasta|Boil water with salt and cook the pasta for ten minutes. ~ Put the pasta in hot water and wait ten minutes.|water
make soup|Cut vegetables and cook them in water. ~ Cook vegetables in water and add some salt.|vegetables
make a salad|Wash the vegetables, cut them and add oil. ~ Cut some vegetables and mix them with oil.|vegetables
bake a cake|Mix flour, eggs, sugar and butter and bake it. ~ Mix everything and put it in the oven.|bake/oven
bake bread|Mix flour, water and yeast. Then bake it in the oven. ~ Make a dough and put it in the oven.|oven/bake
wash my hands|Use soap and warm water and dry your hands. ~ Rub your hands with soap and water.|soap
brush my teeth|Put paste on the brush and clean your teeth for two minutes. ~ Use a toothbrush for two minutes.|brush/toothbrush
clean a window|Wash it with warm water and dry it with a cloth. ~ Use water, a little soap and a dry cloth.|water
clean the floor|Sweep it with a broom and wash it with water. ~ First sweep the floor, then wash it.|sweep
wash clothes|Put them in the washing machine with soap. ~ Use a washing machine and some soap.|soap
plant a tree|Dig a hole, put the tree in and give it water. ~ Make a hole in the soil and plant the tree.|hole
grow flowers|Put seeds in the soil and give them water. ~ Plant the seeds and water them each day.|seeds
water a plant|Pour a little water on the soil. ~ Give it a little water each day.|water
feed a cat|Put cat food in a bowl and give it water. ~ Give it some food and fresh water.|food
feed birds|Put seeds in a small house in the garden. ~ Put some seeds outside.|seeds
draw a house|Draw a square and put a triangle on top. ~ Start with a square, then draw the roof.|square
draw a cat|Draw a circle for the head and add two ears. ~ Start with a round head and two ears.|head
write a letter|Take a pen and paper and begin with a greeting. ~ Begin with a greeting, then write your news.|greeting
learn a language|Learn some words each day and speak a lot. ~ Read, listen and speak each day.|speak
learn to swim|Take lessons at a pool and practise. ~ Go to a pool with a teacher and practise.|pool
ride a bicycle|Sit on it, push the pedals and look ahead. ~ Hold on, push the pedals and keep going.|pedals
fall asleep|Turn off the light and close your eyes. ~ Lie down, close your eyes and breathe slowly.|eyes
wake up early|Go to bed early and set an alarm. ~ Set an alarm clock for the morning.|alarm
keep food fresh|Put it in the fridge. ~ Keep it in the fridge or in a cold place.|fridge
make ice|Put water in the freezer and wait. ~ Pour water into a tray and freeze it.|water
light a candle|Use a match and hold it to the candle. ~ Take a match and be careful.|match
cross the road|Look left and right and then walk. ~ Wait, look both ways and then go.|look
stay warm|Wear a coat and drink hot tea. ~ Put on warm clothes and stay inside.|coat/clothes
save water|Turn off the tap and take short showers. ~ Take a short shower and close the tap.|shower/showers
save money|Spend less and put a little away each month. ~ Make a plan and buy only what you need.|spend/plan
tie my shoes|Make two loops and pull them through. ~ Cross the laces, make a loop and pull.|loop/loops
peel an orange|Use your fingers or a knife and take off the skin. ~ Take off the skin with your fingers.|skin
find a word|Look it up in a dictionary. ~ Use a dictionary to find it.|dictionary
build a snowman|Roll three big balls of snow and put them together. ~ Make big balls of snow and add a carrot nose.|snow
make orange juice|Cut the oranges and press them. ~ Press the oranges and pour the juice into a glass.|oranges
say sorry|Tell the person that you are sorry and why. ~ Look at the person and say that you are sorry.|sorry
read better|Read a little each day. ~ Choose easy books and read each day.|read
clean my room|Pick up your things and sweep the floor. ~ Put everything in its place and sweep.|sweep
wrap a present|Put it on paper, fold the paper and use tape. ~ Use nice paper and tape.|paper
make a paper plane|Fold a sheet of paper in half and make two wings. ~ Take paper and fold it in half.|paper/fold
stop a nosebleed|Lean forward and hold your nose. ~ Sit down and hold your nose for ten minutes.|nose
take a photo|Hold the camera still and press the button. ~ Look through the camera and press the button.|camera
call a friend|Take your phone and press the number. ~ Use your phone and enter the number.|phone
"""

GENERAL = entries("""
Why is the sky dark at night? / Why is it dark at night? / Why do we have night? => It is dark because the sun is on the other side of the Earth. / At night the sun does not shine on us. :: sun
Why is the sky blue? / What makes the sky blue? => The air scatters the blue light of the sun. / Blue light is spread by the air. :: light
What is the sun? / Tell me about the sun. / What do you know about the sun? / Is the sun a star? => The sun is a star. It gives us light and heat. / It is a big hot star. :: star
What is the moon? / Tell me about the moon. / What do you know about the moon? => The moon goes around the Earth. We see it at night. / It is a ball of rock that goes around the Earth. :: earth
What is a star? / Tell me about stars. / What are stars? => A star is a very hot ball of gas far away. / Stars are hot and bright, like our sun. :: hot
What is rain? / Where does rain come from? / Tell me about rain. / Why does it rain? => Rain is water that falls from the clouds. / Water falls from the clouds as rain. :: water
What is snow? / Tell me about snow. / Why does it snow? => Snow is frozen water that falls from the clouds. / It is frozen water. It falls when it is cold. :: frozen
What is ice? / What happens when water gets very cold? / What does cold water become? / What is frozen water called? => Ice is frozen water. / When water gets very cold, it becomes ice. :: ice
What happens when ice gets warm? / What does ice become when it melts? / What happens to ice in the sun? => Ice melts and becomes water. / It turns into water. :: water
What happens when water boils? / What does hot water become? / What comes out of boiling water? => Boiling water turns into steam. / It becomes steam. :: steam
What is wind? / Tell me about wind. / What is the wind made of? => Wind is air that moves. / It is moving air. :: air
What is a cloud? / What are clouds made of? / Tell me about clouds. => A cloud is made of small drops of water. / Clouds are many small drops of water in the air. :: water
What is a rainbow? / When do we see a rainbow? / Tell me about rainbows. => A rainbow has seven colours. We see it when there is sun and rain. / It is light with many colours after the rain. :: colours/rain
What is the Earth? / Where do we live? / On which planet do we live? / What is our planet called? => We live on the Earth. / The Earth is our planet. :: earth
What is a planet? / Tell me about planets. => A planet is a big ball that goes around a star. / Planets go around the sun. :: star/sun
Which planet is the biggest? / What is the biggest planet? / What is the largest planet? => The biggest planet is Jupiter. / Jupiter is the biggest planet. :: jupiter
What is the biggest animal? / Which animal is the biggest? / What is the largest animal in the world? => The blue whale is the biggest animal. / It is the blue whale. :: whale
Which animal is the tallest? / What is the tallest animal? => The giraffe is the tallest animal. / It is the giraffe. :: giraffe
Which animal is the fastest? / What is the fastest animal on land? => The cheetah is the fastest animal on land. / It is the cheetah. :: cheetah
What is the highest mountain? / Which mountain is the highest? / What is the tallest mountain in the world? => Mount Everest is the highest mountain. / It is Mount Everest. :: everest
What is the longest river? / Which river is the longest? => The Nile is the longest river. / It is the Nile in Africa. :: nile
What is the biggest ocean? / Which ocean is the largest? => The Pacific is the biggest ocean. / It is the Pacific. :: pacific
What is a river? / Tell me about rivers. => A river is water that flows to the sea. / It is a long stream of water. :: water
What is the sea? / What is an ocean? / Tell me about the sea. => The sea is a very big area of salt water. / It is a lot of salt water. :: water
What is a mountain? / Tell me about mountains. => A mountain is very high land. / It is a high piece of land. :: high
What is a forest? / Tell me about forests. / What do you find in a forest? => A forest is a place with many trees. / There are many trees in a forest. :: trees
What is a desert? / Tell me about deserts. => A desert is a dry place with a lot of sand. / It is very dry and there is little rain. :: dry
What is an island? / Tell me about islands. => An island is land with water all around it. / It is land in the sea. :: land
What is a city? / What is a town? => A city is a place where many people live. / It is a place with many houses and people. :: people
What is a village? => A village is a small place with a few houses. / It is a small place in the country. :: small
What is a farm? / What do you find on a farm? / Tell me about farms. => A farm is a place with fields and animals. / There are cows, pigs and hens on a farm. :: animals/cows
What is a school? / What do children do at school? / Why do children go to school? => A school is a place where children learn. / Children learn to read and write there. :: learn
What is a library? / What can you find in a library? => A library is a place with many books. / There are many books in a library. :: books
What is a hospital? => A hospital is a place where doctors help sick people. / It is a place for sick people. :: sick
What is a tree? / Tell me about trees. => A tree is a tall plant with leaves and a trunk. / It is a big plant with leaves. :: plant
What is a flower? / Tell me about flowers. => A flower is a part of a plant. It smells nice. / It is a pretty part of a plant. :: plant
What do plants need? / What does a plant need to grow? / What do flowers need to grow? => Plants need light, water and soil. / They need water and sun. :: water
What do people need to live? / What do we need to live? => People need water, food and air. / We need water, food and sleep. :: water
What is air? / What do we breathe? => We breathe air. It is all around us. / Air is all around us. We need it to breathe. :: air
What is water? / Why is water important? / Tell me about water. => Water is a clear drink. All living things need it. / Water falls as rain and we drink it. :: drink
What is fire? / Is fire hot or cold? / Tell me about fire. => Fire is hot and bright. It can burn things. / Fire is hot. Be careful with it. :: hot
What is milk? / Tell me about milk. => Milk is a white drink that comes from cows. / It is a white drink. :: white
What is bread? / Tell me about bread. => Bread is a food made from flour and water. / It is food made from flour. :: flour
What is honey? => Honey is sweet food made by bees. / It is sweet and bees make it. :: bees/sweet
Who makes honey? / Which animal makes honey? / What insect makes honey? => Bees make honey. / Honey is made by bees. :: bees
Which animal gives us milk? / Which animal gives milk? / Who gives us milk? => The cow gives us milk. / Cows give us milk. :: cow/cows
Which animal gives us wool? / Who gives us wool? => The sheep gives us wool. / Sheep give us wool. :: sheep
Which animal lays eggs? / Who lays eggs? / Which bird gives us eggs? => The hen lays eggs. / Hens lay eggs. :: hen/hens
Which animal has a trunk? / What animal has a long nose? => The elephant has a trunk. / It is the elephant. :: elephant
Which animal has stripes? / What animal has black and white stripes? => The zebra has black and white stripes. / It is the zebra. :: zebra
Which animal has a long neck? / What animal has the longest neck? => The giraffe has a long neck. / It is the giraffe. :: giraffe
Which animal barks? / What animal says woof? => The dog barks. / It is the dog. :: dog
Which animal says meow? / What animal meows? => The cat meows. / It is the cat. :: cat
Which animal says moo? / What animal moos? => The cow moos. / It is the cow. :: cow
Who is the king of the animals? / Which animal is the king of the jungle? => The lion is called the king of the animals. / It is the lion. :: lion
What is music? => Music is sound that people like to hear. / It is nice sound made with voices or instruments. :: sound
What is a book? / Tell me about books. => A book has many pages that you can read. / It is something to read. :: read
What is a friend? / What makes a good friend? => A friend is a person you like and trust. / A good friend is kind and helps you. :: like/kind
What is love? => Love is a strong and warm feeling for someone. / It is a warm feeling. :: feeling
What is a birthday? => A birthday is the day on which a person was born. / It is the day you were born. :: day
What is a holiday? / What do people do on holiday? => A holiday is a time when people rest and travel. / It is a free time to rest. :: rest
What is money? / What do people do with money? => People use money to buy things. / Money is used to buy things. :: buy
What is a computer? / Tell me about computers. => A computer is a machine that works with information. / It is a machine that can do many things. :: machine
What is a language model? / What is a model? => A language model is a program that writes text. / It is a computer program that works with words. :: program
What is a car? / Tell me about cars. => A car is a machine with four wheels. / It has four wheels and drives on the road. :: wheels
What is a bicycle? / Tell me about bicycles. => A bicycle has two wheels and you ride it. / It has two wheels. :: wheels
What is a house? / Tell me about houses. => A house is a building where people live. / People live in it. It has a roof and rooms. :: people
What is a kitchen? / What do people do in the kitchen? => A kitchen is a room where people cook. / People cook there. :: cook
What is a bedroom? / What do people do in a bedroom? => A bedroom is a room where people sleep. / People sleep there. :: sleep
What is a bathroom? / What do people do in a bathroom? => A bathroom is a room where people wash. / People wash there. :: wash
What is a garden? / What can you see in a garden? => A garden is a place with flowers and plants. / You can see flowers there. :: flowers
Why do we sleep? / Why do people need sleep? / Why is sleep good? => We sleep because our body needs rest. / Sleep gives us rest. :: rest
Why do we eat? / Why do people eat? / Why is food important? => We eat because food gives us energy. / Food gives us energy. :: energy
Why do we drink water? / Why should I drink water? => Our body needs water to live. / Water keeps our body well. :: body
Why do birds have wings? / What do birds use their wings for? => Birds have wings to fly. / They use their wings to fly. :: fly
Why do cats have claws? => Cats use their claws to climb and to catch mice. / Claws help cats to climb. :: climb
Why do people wear clothes? / Why do we wear clothes? => People wear clothes to stay warm. / Clothes keep us warm. :: warm
Why do we wash our hands? / Why should I wash my hands? => We wash our hands to keep them clean. / Clean hands keep us healthy. :: clean
Why do we brush our teeth? / Why should I brush my teeth? => We brush our teeth to keep them clean. / Clean teeth stay healthy. :: clean
Why do leaves fall? / When do leaves fall from the trees? => Leaves fall in autumn when it gets cold. / In autumn the trees lose their leaves. :: autumn
When does the sun rise? / When does the sun come up? => The sun rises in the morning. / It comes up in the morning. :: morning
When does the sun set? / When does the sun go down? => The sun sets in the evening. / It goes down in the evening. :: evening
Where does the sun rise? / In which direction does the sun rise? => The sun rises in the east. / It rises in the east. :: east
Where does the sun set? / In which direction does the sun set? => The sun sets in the west. / It sets in the west. :: west
When do we see the stars? / When can I see the moon? / When do stars shine? => We see them at night. / At night, when the sky is dark. :: night
When do flowers grow? / In which season do flowers grow? => Flowers grow in spring. / In spring many flowers grow. :: spring
When is it hot? / Which season is the hottest? / What is the warmest season? => It is hot in summer. / Summer is the hottest season. :: summer
When is it cold? / Which season is the coldest? / When does it snow? => It is cold in winter. / Winter is the coldest season. :: winter
What are the four seasons? / Name the four seasons. / Which seasons are there? => The seasons are spring, summer, autumn and winter. / They are spring, summer, autumn and winter. :: spring
What are the days of the week? / Name the days of the week. => The days are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday. :: monday
What is the first day of the week? / With which day does the week start? => The first day of the week is Monday. / It is Monday. :: monday
What are the days of the weekend? / Which days are the weekend? => The weekend is Saturday and Sunday. / They are Saturday and Sunday. :: saturday
What is the colour of a rainbow? / Which colours are in a rainbow? => A rainbow has red, orange, yellow, green, blue and purple. :: red
What colour is a traffic light? / Which colours does a traffic light have? => A traffic light is red, yellow and green. :: red
What do you do at a red light? / What does a red light mean? / What do cars do at a red light? => You stop at a red light. / A red light means stop. :: stop
What does a green light mean? / What do you do at a green light? => A green light means go. / You can go. :: go
Where do fish live? / Can fish live on land? => Fish live in the water. / They live in the water. :: water
Do fish breathe air? / How do fish breathe? => Fish breathe in the water with gills. / They use their gills. :: gills
Do birds lay eggs? / Where do birds lay their eggs? => Yes, birds lay eggs in a nest. / They lay them in a nest. :: nest
What do bees do? / Why are bees important? => Bees make honey and help flowers. / They help flowers to make seeds. :: honey/flowers
What is the capital letter for? / When do we use a capital letter? => A sentence begins with a capital letter. / We use it at the start of a sentence. :: sentence
What comes at the end of a sentence? / What do we put at the end of a sentence? => A sentence ends with a full stop. / We put a full stop. :: stop
How many people are in the world? / How many people live on Earth? => There are about eight billion people. / About eight billion people live on Earth. :: billion
How many continents are there? / What number of continents are there? => There are seven continents. / Seven. :: seven
How many planets are there? / How many planets go around the sun? => Eight planets go around the sun. / There are eight planets. :: eight
Is the Earth round or flat? / What shape is the Earth? => The Earth is round. / It is round like a ball. :: round
Is the sun hot or cold? / How hot is the sun? => The sun is very hot. / It is very hot. :: hot
Is ice hot or cold? / Is snow warm or cold? => It is cold. / It is very cold. :: cold
Is a stone hard or soft? / Is a rock hard? => A stone is hard. / It is hard. :: hard
Is a pillow hard or soft? / Is a pillow soft? => A pillow is soft. / It is soft. :: soft
Is a feather heavy or light? / Is a feather light? => A feather is light. / It is very light. :: light
Is a lemon sweet or sour? / Are lemons sour? => A lemon is sour. / It is sour. :: sour
Is a tomato red or blue? / Is grass green or red? => That one is easy. Tomatoes are red and grass is green. :: red/green
Do you like animals? / Do you like cats or dogs? => I am a model, but animals are very nice. / Animals are very nice. :: nice
What do cows drink? / What do animals drink? => They drink water. / Cows and other animals drink water. :: water
What do babies drink? / What does a baby drink? => Babies drink milk. / A baby drinks milk. :: milk
What can I drink in the morning? / What is a good drink for breakfast? => You could drink tea, coffee or milk. / Tea or milk is good. :: tea
What is a healthy snack? / What is healthy food? / Which food is healthy? => Fruit and vegetables are healthy. / An apple is a healthy snack. :: fruit/apple
What is a good hobby? / Which hobby can you suggest? => Reading, painting or sport are good hobbies. / You could paint, read or play music. :: reading/paint
What is a story? => A story tells what happened to somebody. / It tells what people do. :: tells
What is a question? => A question is a sentence that asks something. / It asks for an answer. :: asks
What is a word? / What is a letter of the alphabet? => Words are made of letters. / Letters make words. :: letters
What is a number? => A number tells how many things there are. / Numbers tell how many. :: many
What is a week? / How long is a week? => A week is seven days long. / It has seven days. :: seven
What is a year? / How long is a year? => A year has twelve months. / It is twelve months long. :: twelve
What is a mammal? => A mammal is an animal that drinks milk when it is young. / Mammals give milk to their young. :: milk
What is an insect? / How many legs do insects have? => An insect is a small animal with six legs. / Insects have six legs. :: six
What is the name of our star? / Which star is near the Earth? => Our star is the sun. / It is the sun. :: sun
What is my name? / Do you know my name? / Who am I? => I do not know your name. Please tell me. / I am sorry, I do not know your name. :: know
Where am I? / Do you know where I am? => I do not know where you are. / I cannot see where you are. :: know/cannot
""")


def _expand(forms: list[str], text: str, slot: str) -> list[Entry]:
    found = []
    for line in lines(text):
        key, answers, words = line.split("|")
        questions = [form.replace("{" + slot + "}", key) for form in forms]
        found.append(Entry(questions, [a.strip() for a in answers.split("~")], words.split("/")))
    return found


FEELINGS = _expand(_FEELING_QUESTIONS, _FEELINGS, "feeling")
HOW_TO = _expand(_HOW_TO_FORMS, _HOW_TO, "task")
PROBLEMS = _PROBLEMS
