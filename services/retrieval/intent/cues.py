"""Wordings that tell what a turn of a conversation is after, in English, Russian and Chinese.

Each cue is a regular expression over the casefolded text, with a weight: 3 where it hardly ever means anything else, 2 where it
mostly means this, 1 where it is a hint.
"""
# ruff: noqa: E501, ISC004 - an expression in one piece is read more easily than one in three

from __future__ import annotations

import re
from typing import Final

from services.retrieval.intent.kinds import Intent

_CUES: Final[dict[Intent, tuple[tuple[float, str], ...]]] = {
    Intent.CHIT_CHAT: (
        (
            3,
            r"^(?:hi|hello|hey|howdy|greetings|good (?:morning|afternoon|evening|night|day))\b(?: (?:there|all|everyone|again))?",
        ),
        (3, r"^(?:(?:ok(?:ay)?|great|perfect|cool|super|nice|fine|alright|well),? )*(?:thanks?(?: you)?|thx|cheers|ty)\b"),
        (3, r"^(?:good ?bye|bye(?: bye)?|see (?:you|ya)|talk to you|take care|have a (?:nice|good|great))\b"),
        (
            3,
            r"^(?:ha(?:ha)+|lol|wow|hm+|oh|yay|cool|awesome|great|nice|perfect|impressive|amazing|wonderful|ok(?:ay)?)(?:,? "
            r"(?:ha(?:ha)+|lol|wow|cool|nice|great|impressive|amazing|wonderful|very \w+|so \w+))*[.! ]*$",
        ),
        (
            3,
            r"\bhow (?:are|r) (?:you|u)\b|\bhow(?:'s| is) (?:it going|your (?:day|morning|evening|week)|life)\b|\bwhat'?s up\b",
        ),
        (3, r"^(?:so )?(?:who|what) are you\b|\bwhat(?:'s| is) your name\b|\bare you (?:a )?(?:human|robot|bot|real|an? ai)\b"),
        (3, r"\b(?:nice|good|great|lovely|pleasure) (?:talking|chatting|to meet|meeting|speaking)\b"),
        (3, r"^you(?:'re| are) (?:\w+ ){0,2}(?:helpful|great|kind|smart|funny|nice|awesome|the best|amazing|clever)\b"),
        (3, r"^(?:do|can) you (?:like|love|enjoy|sing|dance|dream|sleep|feel)\b|^tell me a joke\b|^i (?:love|like) you\b"),
        (
            3,
            r"^(?:привет\w*|здравствуй\w*|добр(?:ое|ый|ой) (?:утро|утра|день|вечер\w*|ночи)|доброго (?:дня|времени)|хай|салют)\b",
        ),
        (3, r"^(?:(?:ок|окей|хорошо|отлично|супер|ладно|понятно|круто|прекрасно),? )*(?:спасибо|благодарю|спс|признателен)\b"),
        (3, r"^(?:пока|до (?:свидания|завтра|встречи|скорого)|всего (?:доброго|хорошего)|удачи|увидимся)\b[^?]{0,20}$"),
        (
            3,
            r"^(?:ха(?:-?ха)+|ого|ух ты|вау|круто|супер|здорово|отлично|прекрасно|класс\w*|молодец|ок|окей|хорошо|ладно)"
            r"(?:[, -]+(?:ха(?:-?ха)+|ого|круто|супер|здорово|отлично|класс\w*|молодец|хорошо|понял\w*|ясно))*[.! ]*$",
        ),
        (
            3,
            r"\bкак (?:у (?:тебя|вас) )?дела\b|\bкак (?:ты|вы|поживае\w+|жизнь|настроение)\b|\bкак прош[её]л\w* (?:твой|ваш|день)\b",
        ),
        (3, r"^кто (?:ты|вы)\b|\bкак (?:тебя|вас) зовут\b|\bты (?:человек|робот|бот)\b"),
        (3, r"\bприятно (?:было )?(?:по)?(?:общаться|знакомиться|познакомиться|говорить|поговорить|беседовать)\b"),
        (3, r"^(?:ты|вы) (?:мне )?(?:очень |так |сильно |реально )?(?:помог\w*|молод\w+|умн\w+|лучш\w+|класс\w*|супер)\b"),
        (3, r"^(?:ты|вы) (?:любишь|любите|умеешь (?:петь|шутить)|спишь|мечтаешь|веришь)\b|^расскажи (?:анекдот|шутку)\b"),
        (3, r"^(?:你好|您好|嗨|哈喽|大家好|早上好|早安|早$|下午好|晚上好|晚安|在吗)"),
        (3, r"^(?:(?:好的?|太好了|很好|行|嗯|哦|没问题)[，, !！。]*)*(?:谢谢|多谢|谢了|谢啦|感谢|辛苦了|非常感谢)"),
        (3, r"^(?:再见|拜拜|回头见|明天见|下次见|回见|先这样)"),
        (
            3,
            r"^(?:哈+|呵+|哇+|太棒了?|厉害|真棒|不错|好的?|嗯+|行|赞|牛|真好|有意思)(?:[，, ]*(?:哈+|哇+|太棒了?|厉害|真棒|不错|好的?|赞|真好|了))*[。！! ]*$",
        ),
        (3, r"最近(?:怎么样|好吗|如何)|你(?:还)?好吗|过得(?:好吗|怎么样|如何)|吃了吗"),
        (3, r"^(?:你|您)(?:是谁|叫什么|是(?:机器)?人(?:吗|还是)|几岁)"),
        (3, r"(?:聊天|聊得|认识你|交谈).{0,3}(?:愉快|开心|高兴)|很高兴"),
        (3, r"^(?:你|您)(?:真|太|好|很|可真)(?:厉害|棒|聪明|好|有用|可爱|贴心|强)"),
        (3, r"^你(?:喜欢|爱|会唱|会跳|会做梦|累不累|开心)|讲个笑话"),
    ),
    Intent.CORRECTION: (
        (
            3,
            r"^(?:no|nope|sorry|pardon|oops|wait|actually|hold on)[,.! ]+(?:no[, ]+)*(?:\w+ ){0,2}?(?:i|we) (?:meant?|mean|said|asked|want(?:ed)?|was asking)\b",
        ),
        (
            3,
            r"\bi (?:meant|mean to ask|said|was asking|asked)\b(?! what)|^i mean\b|^actually,? i\b|\bi (?:wanted|want|need),? not\b",
        ),
        (
            3,
            r"\b(?:that|this|it)(?:'s| is| was)n?(?:'t| not)? (?:wrong|incorrect|not (?:right|correct|true|what)|false|mistaken|right)\b",
        ),
        (
            3,
            r"\byou(?:'re| are| were|'ve| have)? (?:wrong|mistaken|incorrect|misunderst\w+|misread\w*|confus\w+)\b|^(?:wrong|incorrect|false|not true)\b",
        ),
        (3, r"\b(?:doesn't|does not|didn't|did not|don't) (?:answer|address)\b|\bnot what i\b"),
        (
            3,
            r"^(?:no[, ]+)*not [^?]{1,40},? (?:but|i (?:need|want|mean|meant))\b|[^?]{2,40},? not (?:the |in )?[^?]{1,30}[.!]?$",
        ),
        (2, r"^no\b(?! more)(?:,? )|^no no\b"),
        (1, r"^(?:sorry|actually|rather|correction)\b"),
        (
            3,
            r"\b(?:я|мы) (?:имел\w*|имею|подразумевал\w*) в виду\b|\bя (?:спраш\w+|спросил\w*|сказал\w*|говорил\w*|просил\w*|хотел\w*)(?! ли)\b",
        ),
        (
            3,
            r"^(?:нет|не)[, -]+(?:нет[, ]+)?[^?]{1,50}[,—-]+ ?а [^?]+[.!]?$|[^?]{2,50}, а не [^?]+[.!]?$|[^?]{2,50}, не \w+[.!]?$",
        ),
        (
            3,
            r"\b(?:это |вы |ты )?(?:не ?верно|не ?правильно|неправда|ошиб\w+|не так|не то|путае\w+|не об этом|не про это|не ответ)\b",
        ),
        (3, r"\b(?:ты|вы) (?:меня )?не (?:так |правильно )?(?:понял\w*|поняли)\b"),
        (2, r"^нет\b[, -]+|^нет-нет\b|^точнее\b|^вернее\b|^поправ\w+\b|^уточнение\b"),
        (2, r"^(?:извини\w*|прости\w*|ой)[, ]+(?:я )?(?:про|о|не)\b"),
        (3, r"我(?:问|说|指|要|想(?:问|要|知道))的?(?:是|不是)|我不是(?:问|说|指|要)|我是(?:说|问|指|想)"),
        (
            3,
            r"^(?:不|不不|不是|不对|抱歉|对不起)?[，, ]*不是.{1,20}[，,]\s*(?:而?是|我)|[^？?]{1,25}[，,]\s*不是[^？?]{1,20}[。！!]?$",
        ),
        (
            3,
            r"(?:你|您)(?:说|理解|搞|弄|答|记|看)错|错了|不正确|不对[，,。!！]|有误|更正|纠正|误会|误解|答非所问|没(?:有)?回答",
        ),
        (2, r"^(?:不[，,。]|不不|不对|不是(?:的|这)|错)"),
    ),
    Intent.CLARIFICATION: (
        (
            3,
            r"\bwhat (?:do|did|does) (?:you|that|this|it|\w+) (?:mean|refer to|stand for)\b|\b(?:is|was) meant (?:by|with|here)\b|\bwhat does .{1,30} mean\b",
        ),
        (
            3,
            r"\b(?:i )?(?:don't|do not|didn't|can't) (?:quite |really )?(?:understand|follow|get (?:it|that|you))\b|\bunclear\b|\bnot (?:quite )?(?:clear|sure i)\b",
        ),
        (
            3,
            r"\b(?:clarify|clarification|rephrase|reword|be more specific|in other words|in simple|simpler|simply|simplify|plain (?:words|english))\b",
        ),
        (
            3,
            r"\b(?:can|could|would) you (?:please )?(?:explain|elaborate on what|define|spell)\b|\bexplain (?:that|this|it|what)\b|\bwith an example\b",
        ),
        (
            3,
            r"\bin (?:what|which) (?:sense|way)\b|\bwhat exactly\b|\bwhere exactly\b|\bwhich \w+ (?:do you mean|is (?:that|this|meant)|does (?:that|this|it) refer)",
        ),
        (
            2,
            r"\b(?:with or without|\w+ or \w+)(?:, please)?\W*$(?<!more or less)|, right\?$|, correct\?$|\byou mean\b|\bdo you mean\b",
        ),
        (
            3,
            r"\bчто (?:ты|вы) (?:име\w+ в виду|подразумева\w+)|\b(?:ты|вы) имее\w+ в виду\b|\bчто (?:значит|означает|такое)\b|\bв каком смысле\b",
        ),
        (
            3,
            r"\b(?:я )?не (?:понял\w*|понимаю|поняла|ясно|совсем (?:понятно|ясно)|очень (?:понятно|ясно)|понятно)\b|\bнепонятно\b",
        ),
        (
            3,
            r"\b(?:поясни\w*|уточни\w*|разъясни\w*|объясни\w*|растолкуй|переформулируй|конкретнее|проще|другими словами|на примере)\b",
        ),
        (
            2,
            r"\b(?:где|какой|какая|каком|какие|кто|что|когда|как) (?:именно|конкретно)\b|\bкак(?:ой|ом|ая) именно\b|, (?:верно|правильно|так)\?$",
        ),
        (2, r"\b\w+ или (?:в |по |на |за )?\w+(?: вместе)?\W*$"),
        (3, r"(?:是|有)什么意思|什么意思|何意|什么叫|(?:指的?是|是指)(?!.{0,12}[，,].{0,4}不是)|你(?:是)?(?:说|指)的?是"),
        (3, r"没(?:听|看|太)?懂|不(?:太|大|是很)?(?:明白|懂|理解|清楚)|没明白|听不懂|看不懂"),
        (
            3,
            r"(?:请|能|可以)?.{0,3}(?:解释|说明|澄清|明确|具体)(?:一下|说明|点|在|是|地)|举.?个?例|简单(?:点|一点|些)|换(?:个|种)说法|通俗",
        ),
        (3, r"还是.{1,12}[？?]?$"),
    ),
    Intent.CONTINUATION: (
        (
            3,
            r"^(?:please )?(?:go on|continue|carry on|keep going|proceed|next|more|and then|and after that|what next|then what)\b(?:,? please)?\W*$",
        ),
        (
            3,
            r"\b(?:tell|give|show) me (?:\w+ )?(?:more|(?:some |any )?(?:further|more|other|additional) (?:details|information)|everything|the rest)\b",
        ),
        (
            3,
            r"\bplease elaborate\b|^elaborate\b|\b(?:anything|something|what) (?:else|more|further)\b|\bmore (?:details|information|on (?:this|that))\b|\bmore,? please\b",
        ),
        (
            3,
            r"\bwhat (?:comes|happens|follows)(?: \w+)? (?:next|then|after)\b|\b(?:remaining|next|following|further|other) (?:steps?|parts?|points?)\b|\bthe rest\b",
        ),
        (
            3,
            r"^(?:ну )?(?:продолжай\w*|продолжи\w*|дальше|далее|ещ[её]|давай дальше|что дальше|и что дальше|а потом(?: что)?|и потом|а затем|и после этого|что потом)\b(?:[, ]+пожалуйста)?\W*$",
        ),
        (
            3,
            r"\b(?:расскажи\w*|опиши\w*|раскрой\w*|напиши\w*)\b.{0,20}\b(?:подробн\w*|больше|ещ[её]|вс[её]|шире|полнее|детальн\w*|дальше)",
        ),
        (
            3,
            r"\b(?:ещ[её]|больше) (?:подробност\w+|детал\w+|информаци\w+|что-нибудь|сведени\w+|пример\w*)|\bчто ещ[её]\b|\b(?:есть|что-то|что-нибудь) ещ[её]\b|\bподробнее\W*$",
        ),
        (3, r"\b(?:остальн\w+|следующ\w+|оставш\w+) (?:шаг\w*|част\w+|пункт\w*)|\bшаги? остал\w+"),
        (3, r"^(?:请)?(?:继续|接着|往下|接下来|然后|后来|之后|下一步|还有)(?:说|讲|呢|吗|往下|下去)*[。？！?!吧 ]*$"),
        (3, r"(?:多|再|详细|展开).{0,3}(?:说|讲|介绍|聊)(?:一?点|一?些|说|一下|讲)*|更多(?:的)?(?:细节|信息|内容|情况)|进一步"),
        (
            3,
            r"还(?:有|知道)(?:什么|哪些|别的|其他)|(?:有|还有).{0,4}(?:别的|其他的?|更多)(?:吗|信息|情况)|其(?:他|它)(?:情况|信息|内容|方面)|其余",
        ),
        (3, r"(?:剩下|余下|其余|接下来|后面)的?(?:步骤|部分|内容|几步)|(?:在|从)?那?(?:之|以)后呢"),
    ),
    Intent.FOLLOW_UP: (
        (2.5, r"^(?:and|but|so|or|then)\b.+|^(?:what|how) about\b|^what if\b"),
        (2, r"\b(?:it|its|he|she|him|his|her|hers|they|them|their|theirs|there|these|those|this one|that one|the same|such)\b"),
        (1.2, r"\b(?:this|that)\b"),
        (0.8, r"^(?:why|when|who|where|since when|how (?:long|many|much|old|big|often|far))\b(?: \w+){0,4}\W*$"),
        (2.5, r"^(?:а|и|но|ну а)\b.+|^как насч[её]т\b|^(?:а )?если\b"),
        (
            2,
            r"\b(?:он|она|оно|они|его|е[её]|их|ему|ей|им|ними|него|не[её]|н[её]м|ней|нему|них|нём|тем|теми|там|туда|оттуда|такой|такие|таких|такая|этот|эта|эти|этого|этой|этом|этих)\b",
        ),
        (1.2, r"\bэто\b"),
        (0.8, r"^(?:почему|когда|кто|где|куда|сколько|зачем|до какого|с какого)\b(?: \w+){0,3}\W*$"),
        (2.5, r"^那|呢[？?。]?$|^(?:如果|要是|万一)"),
        (2, r"[它他她]们?|(?:这|那)(?!么)(?:个|些|种|样|里|次|家|款)?|其中|同样|对.{1,4}也"),
        (0.4, r"^.{0,9}(?:吗|多久|多少|几|谁|哪一?天|怎样|什么时候)[^，]{0,6}[？?]?$"),
    ),
    Intent.NEW_TOPIC: (
        (
            3.5,
            r"\b(?:new|another|different|other|unrelated) (?:question|topic|subject|matter)\b|\bchange the (?:subject|topic)\b|^(?:something|on something) (?:else|different)\b|\bswitch(?:ing)? (?:topics?|subjects?)\b|\bby the way\b",
        ),
        (
            3.5,
            r"\b(?:друг(?:ой|ая|ую|ом)) (?:вопрос|тем\w+)|\bдавай\w* о другом\b|\bсмени\w* тем\w*|\bне по теме\b|\bкстати\b|\bпо другому (?:вопросу|поводу)\b",
        ),
        (0.5, r"^(?:怎么|如何|怎样)"),
        (
            3.5,
            r"换(?:个|一个)?(?:话题|问题)|另(?:外)?一?个(?:问题|话题)|另外(?:一个)?(?:问|想问)|顺便(?:问|说)|说点别的|题外话",
        ),
    ),
}
_COMMON: Final = frozenset({Intent.FOLLOW_UP, Intent.NEW_TOPIC})
_SPOKEN: Final = 1.6
_COMPILED: Final = {intent: tuple((weight, re.compile(pattern)) for weight, pattern in cues) for intent, cues in _CUES.items()}


def weights(text: str) -> dict[Intent, float]:
    """What the wording of a casefolded text says for each intent.

    The heaviest cue counts, and of those that say something of the turn before itself half of each further one too. These weigh
    more than a pronoun, which stands in turns of every kind.
    """
    found = {intent: [weight for weight, cue in cues if cue.search(text)] for intent, cues in _COMPILED.items()}
    return {
        intent: max(heard, default=0.0) if intent in _COMMON else _SPOKEN * _together(heard) for intent, heard in found.items()
    }


def _together(heard: list[float]) -> float:
    ordered = sorted(heard, reverse=True)
    return sum(ordered[:1]) + sum(ordered[1:]) / 2
