# ruff: noqa: E501 (Korean letters count as two columns)
"""The three grammars, against sentences written by hand."""

import pytest

from malmoi.data.village import english, french, korean
from malmoi.data.village.meaning import Cause, Event, Fact, Person, Sequence, State, Thing, Weather

MINA, JUN, EMMA = Person("Mina"), Person("Jun"), Person("Emma")
GRANDMOTHER = Person("Mina", "grandmother")
APPLE = Thing("apple")

SENTENCES = [
    (Event("go", MINA, place="market"), "미나는 시장에 갔어요.", "Mina went to the market.", "Mina est allée au marché."),
    (Event("go", JUN, place="school", tense="future", time="tomorrow"), "내일 준은 학교에 갈 거예요.",
     "Tomorrow Jun will go to the school.", "Demain, Jun ira à l'école."),
    (Event("go", Person("Sora", other="Mina"), place="hospital"), "소라와 미나는 병원에 갔어요.",
     "Sora and Mina went to the hospital.", "Sora et Mina sont allées à l'hôpital."),
    (Event("go", Person("Jun", other="Mina"), place="home"), "준과 미나는 집에 갔어요.",
     "Jun and Mina went home.", "Jun et Mina sont allés à la maison."),
    (Event("return", GRANDMOTHER, place="market", negative=True), "미나의 할머니께서는 시장에서 돌아오지 않으셨어요.",
     "Mina's grandmother did not come back from the market.", "La grand-mère de Mina n'est pas revenue du marché."),
    (Event("rest", EMMA, place="forest", negative=True), "엠마는 숲에서 쉬지 않았어요.",
     "Emma did not rest in the forest.", "Emma ne s'est pas reposée dans la forêt."),
    (Event("run", Person("Paul"), place="station"), "폴은 역으로 뛰어갔어요.",
     "Paul ran to the station.", "Paul a couru jusqu'à la gare."),
    (Event("eat", GRANDMOTHER, APPLE, tense="now"), "미나의 할머니께서는 사과 한 개를 드시고 계세요.",
     "Mina's grandmother is eating an apple.", "La grand-mère de Mina mange une pomme."),
    (Event("drink", JUN, Thing("water"), negative=True), "준은 물을 마시지 않았어요.",
     "Jun did not drink water.", "Jun n'a pas bu d'eau."),
    (Event("drink", JUN, Thing("water", adjective="cold")), "준은 차가운 물을 마셨어요.",
     "Jun drank cold water.", "Jun a bu de l'eau froide."),
    (Event("drink", JUN, Thing("milk")), "준은 우유를 마셨어요.", "Jun drank milk.", "Jun a bu du lait."),
    (Event("eat", JUN, Thing("soup", definite=True)), "준은 그 국을 먹었어요.", "Jun ate the soup.", "Jun a mangé la soupe."),
    (Event("buy", MINA, Thing("hat", 2, False, "old"), tense="habit", time="every Sunday"),
     "일요일마다 미나는 오래된 모자 두 개를 사요.", "Every Sunday Mina buys two old hats.",
     "Tous les dimanches, Mina achète deux vieux chapeaux."),
    (Event("see", MINA, Thing("bird", 1, False, "pretty")), "미나는 예쁜 새 한 마리를 봤어요.",
     "Mina saw a pretty bird.", "Mina a vu un joli oiseau."),
    (Event("have", JUN, Thing("umbrella", 1, False, "old"), tense="now"), "준은 오래된 우산 한 개를 가지고 있어요.",
     "Jun has an old umbrella.", "Jun a un vieux parapluie."),
    (Event("lose", JUN, Thing("scarf", 1, False, "", "self")), "준은 자기 목도리를 잃어버렸어요.",
     "Jun lost his scarf.", "Jun a perdu son écharpe."),
    (Event("find", MINA, Thing("ball", 1, False, "red", "Emma")), "미나는 엠마의 빨간 공을 찾았어요.",
     "Mina found Emma's red ball.", "Mina a trouvé le ballon rouge d'Emma."),
    (Event("give", JUN, Thing("orange", definite=True), Person("Jun", "mother", own=True)), "준은 어머니께 그 오렌지를 드렸어요.",
     "Jun gave the orange to his mother.", "Jun a donné l'orange à sa mère."),
    (Event("give", Person("teacher"), Thing("book", 3), Person("farmer"), tense="future"),
     "선생님께서는 농부에게 책 세 권을 주실 거예요.", "The teacher will give three books to the farmer.",
     "La maîtresse donnera trois livres au fermier."),
    (Event("meet", EMMA, Person("doctor")), "엠마는 의사 선생님을 뵈었어요.", "Emma met the doctor.",
     "Emma a rencontré le docteur."),
    (Event("help", Person("doctor"), GRANDMOTHER, tense="future"), "의사 선생님께서는 미나의 할머니를 도와드리실 거예요.",
     "The doctor will help Mina's grandmother.", "Le docteur aidera la grand-mère de Mina."),
    (Event("put", MINA, Thing("box", definite=True), place="kitchen"), "미나는 그 상자를 부엌에 놓았어요.",
     "Mina put the box in the kitchen.", "Mina a posé la boîte dans la cuisine."),
    (Event("exist", Thing("horse", 2, False, "white"), place="farm", tense="now"), "농장에 하얀 말 두 마리가 있어요.",
     "There are two white horses on the farm.", "Il y a deux chevaux blancs à la ferme."),
    (Event("be", GRANDMOTHER, place="garden", tense="now"), "미나의 할머니께서는 정원에 계세요.",
     "Mina's grandmother is in the garden.", "La grand-mère de Mina est dans le jardin."),
    (Event("sleep", Thing("mouse"), place="home"), "쥐 한 마리가 집에서 잤어요.",
     "A mouse slept at home.", "Une souris a dormi à la maison."),
    (State(Person("Sora", other="Mina"), "happy"), "소라와 미나는 기뻤어요.", "Sora and Mina were happy.",
     "Sora et Mina étaient contentes."),
    (State(Person("Leo", "grandfather"), "sick", "now"), "레오의 할아버지께서는 편찮으세요.",
     "Leo's grandfather is sick.", "Le grand-père de Leo est malade."),
    (State(Thing("umbrella", definite=True), "blue", "now"), "그 우산은 파란색이에요.", "The umbrella is blue.",
     "Le parapluie est bleu."),
    (Weather("snow", "future", "tonight"), "오늘 밤에 눈이 올 거예요.", "Tonight it will snow.", "Ce soir, il neigera."),
    (Sequence(Event("go", MINA, place="library"), Event("read", MINA, Thing("book"))),
     "미나는 도서관에 가서 책 한 권을 읽었어요.", "Mina went to the library and read a book.",
     "Mina est allée à la bibliothèque et a lu un livre."),
    (Cause(State(JUN, "hungry"), Event("eat", JUN, Thing("egg", 2))), "준은 배고파서 달걀 두 개를 먹었어요.",
     "Jun was hungry, so he ate two eggs.", "Jun avait faim, alors il a mangé deux œufs."),
    (Fact("age", MINA, "9"), "미나는 9살이에요.", "Mina is 9 years old.", "Mina a 9 ans."),
    (Fact("kin", Person("Mina", "little brother"), "Jun"), "준은 미나의 남동생이에요.", "Jun is Mina's little brother.",
     "Jun est le petit frère de Mina."),
]  # fmt: skip


@pytest.mark.parametrize(("meaning", "ko", "en", "fr"), SENTENCES, ids=[row[2] for row in SENTENCES])
def test_sentence(meaning, ko, en, fr):
    assert korean.sentence(meaning) == ko
    assert english.sentence(meaning) == en
    assert french.sentence(meaning) == fr


QUESTIONS = [
    (Event("buy", MINA, Thing("apple", 3)), "agent", "누가 사과 세 개를 샀어요?", "Who bought three apples?",
     "Qui a acheté trois pommes ?"),
    (Event("buy", EMMA, APPLE), "object", "엠마는 무엇을 샀어요?", "What did Emma buy?", "Qu'est-ce qu'Emma a acheté ?"),
    (Event("buy", MINA, Thing("apple", 3)), "number", "미나는 사과를 몇 개 샀어요?", "How many apples did Mina buy?",
     "Combien de pommes est-ce que Mina a achetées ?"),
    (Event("go", MINA, place="park"), "place", "미나는 어디에 갔어요?", "Where did Mina go?",
     "Où est-ce que Mina est allée ?"),
    (Event("go", Person("teacher"), place="park"), "place", "선생님께서는 어디에 가셨어요?", "Where did the teacher go?",
     "Où est-ce que la maîtresse est allée ?"),
    (Event("give", JUN, Thing("ball", definite=True), MINA), "recipient", "준은 누구에게 그 공을 줬어요?",
     "Who did Jun give the ball to?", "À qui est-ce que Jun a donné le ballon ?"),
    (Event("meet", JUN, MINA), "object", "준은 누구를 만났어요?", "Who did Jun meet?", "Qui est-ce que Jun a rencontré ?"),
    (Event("be", Thing("kite", definite=True), place="park", tense="now"), "place", "그 연은 어디에 있어요?",
     "Where is the kite?", "Où est le cerf-volant ?"),
    (Event("have", JUN, Thing("key", 4), tense="now"), "number", "준은 열쇠를 몇 개 가지고 있어요?",
     "How many keys does Jun have?", "Combien de clés est-ce que Jun a ?"),
    (State(MINA, "sad"), "quality", "미나는 어땠어요?", "How was Mina?", "Comment était Mina ?"),
    (Weather("rain"), "sky", "날씨가 어땠어요?", "What was the weather like?", "Quel temps faisait-il ?"),
    (Fact("age", GRANDMOTHER, "66"), "value", "미나의 할머니께서는 연세가 어떻게 되세요?", "How old is Mina's grandmother?",
     "Quel âge a la grand-mère de Mina ?"),
]  # fmt: skip


@pytest.mark.parametrize(("meaning", "asked", "ko", "en", "fr"), QUESTIONS, ids=[row[3] for row in QUESTIONS])
def test_question(meaning, asked, ko, en, fr):
    assert korean.question(meaning, asked) == ko
    assert english.question(meaning, asked) == en
    assert french.question(meaning, asked) == fr


def test_the_news_takes_the_subject_particle():
    assert korean.sentence(Event("go", JUN, place="park"), focus=True) == "준이 공원에 갔어요."
    assert korean.sentence(Event("go", GRANDMOTHER, place="park"), focus=True) == "미나의 할머니께서 공원에 가셨어요."
