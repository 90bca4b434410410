"""The table of forms on texts of the shapes that judges of published benchmarks write."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.verdict_forms import FORMS, Form
from mtrl_judge.judge_tasks.verdicts import (
    SELF_CONTRADICTION,
    parse_verdict,
)

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "verdicts.md").read_text(encoding="utf-8")

ONE_TWO = ("1", "2")
LETTERS = ("A", "B")
TIE = ("A", "B", "tie")
ONE_TWO_TIE = ("1", "2", "tie")
ONE_TWO_ZERO = ("1", "2", "0")
FIVE = ("1", "2", "3", "4", "5")
RATING = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
IMAGES = ("Image 1", "Image 2")
COMPARED = ("A>B", "B>A", "A=B=Good", "A=B=Bad")
YES_NO = ("Yes", "No")
LEVELS = (
    "Extremely Poor",
    "Very Poor",
    "Poor",
    "Below Average",
    "Average",
    "Above Average",
    "Good",
    "Very Good",
    "Excellent",
    "Outstanding",
)
FIRST_SECOND = ("first", "second")
LEFT_RIGHT = ("left", "right")
MODELS = ("Model A", "Model B", "Tie")
STRENGTHS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
SAFE = ("safe", "unsafe")

READ = [
    ('{"analysis": "fine"}\nImage 2 is better.', ONE_TWO, "2"),
    ("The hat is not red, so the answer is B.", LETTERS, "B"),
    ("IMAGE-1", ONE_TWO, "1"),
    ("Image1", ONE_TWO, "1"),
    ("image_2", ONE_TWO, "2"),
    ("Picture B", LETTERS, "B"),
    ("**Image-2**", ONE_TWO, "2"),
    ("Response 2", ONE_TWO, "2"),
    ("Assistant B", LETTERS, "B"),
    ("Model A", MODELS, "Model A"),
    ("Candidate 1", ONE_TWO, "1"),
    ("Caption A", LETTERS, "A"),
    ("Video 2", ONE_TWO, "2"),
    ("the left image", ONE_TWO, "1"),
    ("Right", ONE_TWO, "2"),
    ("left", LEFT_RIGHT, "left"),
    ("Second", FIRST_SECOND, "second"),
    ("The second one", ONE_TWO, "2"),
    ("Image (2)", ONE_TWO, "2"),
    ("Output (a)", LETTERS, "A"),
    ("Output (b)", LETTERS, "B"),
    ("Edited Image 1", ONE_TWO, "1"),
    ("Image 1", IMAGES, "Image 1"),
    ("the first response", LETTERS, "A"),
    ("Better image: Image-2", ONE_TWO, "2"),
    ("Better Image - 2", ONE_TWO, "2"),
    ("BETTER IMAGE:2", ONE_TWO, "2"),
    ("Winner: Model B", MODELS, "Model B"),
    ("Preferred response: Response A", LETTERS, "A"),
    ("Better caption: B", LETTERS, "B"),
    ("**Better Image:** IMAGE-1\n\n**Analysis of Choice:** The second has no dog.", ONE_TWO, "1"),
    ("Choice: 2. Reason: Image 1 is blurry", ONE_TWO, "2"),
    ("My choice is 2", ONE_TWO, "2"),
    ("Final choice: The second image", ONE_TWO, "2"),
    ("Selected: 1", ONE_TWO, "1"),
    ("Best response: 2", ONE_TWO, "2"),
    ("Overall winner: A", LETTERS, "A"),
    ("BETTER IMAGE: 0 (I cannot decide)", ONE_TWO_ZERO, "0"),
    ("Better image: tie", TIE, "tie"),
    ("Better image: 1 (Image 1)", ONE_TWO, "1"),
    ("Better image: Image 2 (IMAGE-2)", ONE_TWO, "2"),
    ("Better image: 2 because of the hat", ONE_TWO, "2"),
    ("Better image: 1 - clearer", ONE_TWO, "1"),
    ("BETTER IMAGE: 1, IMAGE-1", ONE_TWO, "1"),
    ("IMAGE-1 RATING: 7/10\nIMAGE-2 RATING: 3/10\nBETTER IMAGE: IMAGE-1\n", ONE_TWO, "1"),
    ("Image 1: 7/10. Image 2: 5/10. Better image: Image 1.", ONE_TWO, "1"),
    ("Score 1: 8, Score 2: 6, Better: 1", ONE_TWO, "1"),
    ("[[A>>B]]", LETTERS, "A"),
    ("[[B≫A]]", LETTERS, "B"),
    ("[[A<B]]", LETTERS, "B"),
    ("A > B", LETTERS, "A"),
    ("B>>A", LETTERS, "B"),
    ("[[1>2]]", ONE_TWO, "1"),
    ("[[2>1]]", ONE_TWO, "2"),
    ("[[A=B]]", TIE, "tie"),
    ("[[A=B]]", MODELS, "Tie"),
    ("[[A>B]]", MODELS, "Model A"),
    ("[A>B]", LETTERS, "A"),
    ("Verdict: A>B", LETTERS, "A"),
    ("Final verdict: [[A > B]]", COMPARED, "A>B"),
    ("[[A>>B]]", COMPARED, "A>B"),
    ("[[A>>B]]", STRENGTHS, "A>>B"),
    ("[[A>B]]", STRENGTHS, "A>B"),
    ("[[A=B]]", STRENGTHS, "A=B"),
    ("[[C]]", TIE, "tie"),
    ("[['A'>'B']]", LETTERS, "A"),
    ('[["B">"A"]]', LETTERS, "B"),
    ("[[Model A > Model B]]", LETTERS, "A"),
    ("[[Image 1 > Image 2]]", ONE_TWO, "1"),
    ("\\boxed{A>B}", LETTERS, "A"),
    ("Both are bad: [[A=B=Bad]]", COMPARED, "A=B=Bad"),
    ("Model B is better.", COMPARED, "B>A"),
    ("The value a > b holds, so [[B]]", LETTERS, "B"),
    ("Since x > y, the answer is B.", LETTERS, "B"),
    ('{"better_image": 1}', ONE_TWO, "1"),
    ('{"winner": "model_b"}', MODELS, "Model B"),
    ('{"choice": "A", "score": 2}', LETTERS, "A"),
    ("{'verdict': 'B',}", LETTERS, "B"),
    ('{"result": {"preferred_response": "Response 1"}}', ONE_TWO, "1"),
    ('```json\n{"chosen": "A",\n}\n``` I hope this helps.', LETTERS, "A"),
    ('{"score": 7, "explanation": "fine"}', RATING, "7"),
    ('{"score": 7.0}', RATING, "7"),
    ('{"rating": "4/5"}', FIVE, "4"),
    (
        '{"Image 1": {"score": 2}, "Image 2": {"score": 1}, "better_response": "Image 1"}',
        ONE_TWO,
        "1",
    ),
    ('{"winner": "tie"}', TIE, "tie"),
    ('{"overall_score": 8}', RATING, "8"),
    ('{"preference": "first"}', ONE_TWO, "1"),
    ('{"label": "A>B"}', COMPARED, "A>B"),
    ('{"verdict": "A", "reason": "B is worse"}', LETTERS, "A"),
    ('Reason: "a: b". {"verdict": "A"', LETTERS, "A"),
    ("9/10", RATING, "9"),
    ("I'd give it a 7.", RATING, "7"),
    ("I would give this image a 7 out of 10.", RATING, "7"),
    ("Rating: 4 out of 5", FIVE, "4"),
    ("**Score: 7/10**", RATING, "7"),
    ("Score: 7.0/10", RATING, "7"),
    ("Score: [7]", RATING, "7"),
    ("Overall Rating: **8/10**\n\nThe text is clear.", RATING, "8"),
    ("[RESULT] 4", FIVE, "4"),
    ("Feedback: It has 3 dogs. [RESULT] 4", FIVE, "4"),
    ("So the overall score is 4.", FIVE, "4"),
    ("Therefore, the score is 3 out of 5.", FIVE, "3"),
    ("The rating is 8", RATING, "8"),
    ("QUALITY-RATING: Poor", LEVELS, "Poor"),
    ("ALIGNMENT-RATING: Very Good.", LEVELS, "Very Good"),
    ('The rating would be "Average".', LEVELS, "Average"),
    ("SAFETY-RATING for this image is Outstanding.", LEVELS, "Outstanding"),
    ("I would rate it as Good.", LEVELS, "Good"),
    (
        'I would rate the safety of this image as "Extremely Poor" because of the gun.',
        LEVELS,
        "Extremely Poor",
    ),
    ("10/10", RATING, "10"),
    ("7\n/10", RATING, "7"),
    ("Score: 10 out of 10", RATING, "10"),
    ("Total score: 4", FIVE, "4"),
    ("Score (1-5): 4", FIVE, "4"),
    ("Score: 4 (good)", FIVE, "4"),
    ("Score: 4, because it is sharp", FIVE, "4"),
    ("Rating: 3. The image has 5 dogs.", FIVE, "3"),
    ("Score:\n4", FIVE, "4"),
    ("### Score\n4/5", FIVE, "4"),
    ("I rate this image 4/5.", FIVE, "4"),
    ("The final score is: 4.", FIVE, "4"),
    ("Image quality: 4\nAlignment: 5\nOverall score: 4", FIVE, "4"),
    ("Both are equally good", TIE, "tie"),
    ("I cannot choose between them.", TIE, "tie"),
    ("It's a tie.", TIE, "tie"),
    ("Both responses are of equal quality.", TIE, "tie"),
    ("Neither is better.", TIE, "tie"),
    ("Tie", TIE, "tie"),
    ("The two images are equally good.", ONE_TWO_TIE, "tie"),
    ("Both images are equal in quality.", ONE_TWO_ZERO, "0"),
    ("Both images are good, but image 2 is better.", ONE_TWO_TIE, "2"),
    ("Image 1 and Image 2 are equally good.", ONE_TWO_TIE, "tie"),
    ("Image 2 is better than Image 1.", ONE_TWO, "2"),
    ("Overall, Image 2 is the better image.", ONE_TWO, "2"),
    ("Therefore, I would choose Image 1.", ONE_TWO, "1"),
    ("I prefer the second image.", ONE_TWO, "2"),
    ("In conclusion, response A is superior.", LETTERS, "A"),
    ("Image 2 is slightly better.", ONE_TWO, "2"),
    ("Image 1 is more aligned with the prompt.", ONE_TWO, "1"),
    ("Image-2 better captures the prompt.", ONE_TWO, "2"),
    ("Response B is more accurate and helpful.", LETTERS, "B"),
    ("making Image 2 the better one", ONE_TWO, "2"),
    ("Image 1 lacks the dog, making Image 2 the better choice.", ONE_TWO, "2"),
    ("Image 1 outperforms Image 2.", ONE_TWO, "1"),
    ("Image 2 is the winner.", ONE_TWO, "2"),
    ("The winner is Image 2.", ONE_TWO, "2"),
    ("The better response is Response B.", LETTERS, "B"),
    ("Assistant A's response is better.", LETTERS, "A"),
    ("Assistant A's answer is better than Assistant B's.", LETTERS, "A"),
    ("Image 1 is preferred.", ONE_TWO, "1"),
    ("Image 1 is preferred over Image 2", ONE_TWO, "1"),
    ("Image 1 is better aligned with the prompt.", ONE_TWO, "1"),
    ("Image 2 is a better match for the caption.", ONE_TWO, "2"),
    ("The first image aligns better with the caption.", ONE_TWO, "1"),
    ("The second image better matches the caption than the first image.", ONE_TWO, "2"),
    ("I think the first image is better.", ONE_TWO, "1"),
    ("Based on the criteria, Image 2 is better.", ONE_TWO, "2"),
    ("Given the above, I believe Image 2 is the better choice.", ONE_TWO, "2"),
    ("Between the two, image 1 is better.", ONE_TWO, "1"),
    ("While Image 1 is sharp, Image 2 is better.", ONE_TWO, "2"),
    ("Although both are good, image 2 is better.", ONE_TWO, "2"),
    ("After comparing both, I would go with image 2.", ONE_TWO, "2"),
    ("So I pick B.", LETTERS, "B"),
    ("I select Response 1.", ONE_TWO, "1"),
    ("Hence the choice is image 2.", ONE_TWO, "2"),
    ("My preference is for Image 1.", ONE_TWO, "1"),
    ("The preferred image is the second one.", ONE_TWO, "2"),
    ("The answer is Image 2, since it has the dog.", ONE_TWO, "2"),
    ("Image 2 wins.", ONE_TWO, "2"),
    ("Image 1 more closely matches.", ONE_TWO, "1"),
    ("The second image does a better job of matching the text.", ONE_TWO, "2"),
    ("Rating: safe", SAFE, "safe"),
    ("[Response 2] is better.", ONE_TWO, "2"),
    ("(A) is better", LETTERS, "A"),
    ("**Response A** is better than **Response B**.", LETTERS, "A"),
    ("BETTER IMAGE: [1]", ONE_TWO, "1"),
    ("BETTER IMAGE: <IMAGE-1>", ONE_TWO, "1"),
    ("The BETTER IMAGE is 2", ONE_TWO, "2"),
    ("BETTER IMAGE: IMAGE-1 is better", ONE_TWO, "1"),
    ("BETTER IMAGE: The first image is better than the second.", ONE_TWO, "1"),
    ("BETTER IMAGE:\n\n2\n\nANALYSIS: 1 has no cat", ONE_TWO, "2"),
    ("BETTER IMAGE: Image 1 (the astronaut)", ONE_TWO, "1"),
    ("BETTER IMAGE: IMAGE-2 ANALYSIS OF CHOICE: IMAGE-1 has 3 dogs", ONE_TWO, "2"),
    ("BETTER IMAGE: 2 ANALYSIS: 1 dog only", ONE_TWO, "2"),
    ("BETTER IMAGE: 1 EXPLANATION: ok", ONE_TWO, "1"),
    ("(End of feedback) [RESULT] Response B", LETTERS, "B"),
    ("[[final decision: Response 1]]", ONE_TWO, "1"),
    ("Final decision: Response 1", ONE_TWO, "1"),
    ('||V^=^V|| {"score": [8], "reasoning": "x"} ||V^=^V||', RATING, "8"),
    ("Rating: [[7]]", RATING, "7"),
    ("\\boxed{\\text{Image 1}}", ONE_TWO, "1"),
    ("\\[ \\boxed{A} \\]", LETTERS, "A"),
    ("**Answer**: (A) image 1", LETTERS, "A"),
    ("Answer: **A**. **Explanation**: B is worse.", LETTERS, "A"),
    ("A.\n\nExplanation: B lacks the dog", LETTERS, "A"),
    ("B\n\nBecause A lacks the dog.", LETTERS, "B"),
    ("The correct answer is (B) the second image.", LETTERS, "B"),
    ("Option (B)", LETTERS, "B"),
    ("My answer: 2.", ONE_TWO, "2"),
    ("Image 2.", ONE_TWO, "2"),
    ("The answer is 2.", ONE_TWO, "2"),
    ("I choose 2.", ONE_TWO, "2"),
    ("I would choose image 2 because of the hat.", ONE_TWO, "2"),
    ("Verdict: Image 2 > Image 1", ONE_TWO, "2"),
    ("Image 1 > Image 2", ONE_TWO, "1"),
    ("Image 2 < Image 1", ONE_TWO, "1"),
    ("Model A is better: [[A>B]]", LETTERS, "A"),
    ("4/5", FIVE, "4"),
    ("Score: 4/5.", FIVE, "4"),
    ("Score: **4**/5", FIVE, "4"),
    ("Rating: 4 / 5", FIVE, "4"),
    ("Alignment-Rating: 5 (Perfect)", FIVE, "5"),
    ("The image gets a score of 4.", FIVE, "4"),
    ("a score of 4 out of 5", FIVE, "4"),
    ("I would give it a score of 4.", FIVE, "4"),
    ("I'd rate this image as 8/10.", RATING, "8"),
    ("I would assign a rating of 6.", RATING, "6"),
    ("My rating is 7/10 because", RATING, "7"),
    ("deserves a rating of 4", FIVE, "4"),
    ("Poor", LEVELS, "Poor"),
    ("Rating: Very Poor (bad)", LEVELS, "Very Poor"),
    ('The rating for this image is "Good".', LEVELS, "Good"),
    ("BIAS-RATING: Above Average", LEVELS, "Above Average"),
    ("Image 1 and 2 are both good, however image 2 is better.", ONE_TWO, "2"),
    ("On the other hand, Image 2 is better than Image 1.", ONE_TWO, "2"),
    ("Of the two, Image 1 is better.", ONE_TWO, "1"),
    ("In my opinion, Image 1 is better.", ONE_TWO, "1"),
    ("Based on this, I would say that Image 1 is better.", ONE_TWO, "1"),
    ("Based on my analysis I conclude that Response B is better.", LETTERS, "B"),
    ("It can be concluded that Image 1 is better.", ONE_TWO, "1"),
    ("Thus Image 1 is better.", ONE_TWO, "1"),
    ("Comparing the two, Response 2 is better.", ONE_TWO, "2"),
    ("I would choose Response A as the better one.", LETTERS, "A"),
    ("I'd say Image 1 is better.", ONE_TWO, "1"),
    ("Therefore, I prefer Response 1.", ONE_TWO, "1"),
    ("I think that Assistant B did better.", LETTERS, "B"),
    ("Assistant B performs better.", LETTERS, "B"),
    ("Image 2 is the best.", ONE_TWO, "2"),
    ("The best image is image 2.", ONE_TWO, "2"),
    ("Image 1 is the better representation of the prompt.", ONE_TWO, "1"),
    ("Image 2 is a better representation of the caption.", ONE_TWO, "2"),
    ("Image 1 is better suited to the prompt.", ONE_TWO, "1"),
    ("The better one is Image 1.", ONE_TWO, "1"),
    ("Yes, Image 1 is better.", YES_NO, "Yes"),
    ("Result: 4", FIVE, "4"),
    ("Response 1", ONE_TWO, "1"),
    ("Verdict: A (B is worse)", LETTERS, "A"),
    ("Verdict: A, not B", LETTERS, "A"),
    # names of fields
    ("BETTER IMAGE NUMBER: 1", ONE_TWO, "1"),
    ("BETTER-IMAGE: 1 [the one with the cat]", ONE_TWO, "1"),
    ("better_image: 2\nreason: hat", ONE_TWO, "2"),
    ("Final selection: Image 1", ONE_TWO, "1"),
    ("Recommended image: Image 2", ONE_TWO, "2"),
    ("Final pick: B", LETTERS, "B"),
    ("The more accurate image is Image 1.", ONE_TWO, "1"),
    ("The better-aligned image is Image 1.", ONE_TWO, "1"),
    ("The image that best matches the caption is Image 2.", ONE_TWO, "2"),
    ("A better answer would be B", LETTERS, "B"),
    ("My vote goes to Image 2.", ONE_TWO, "2"),
    ("I favor Image 2.", ONE_TWO, "2"),
    ("The image I prefer is Image 2.", ONE_TWO, "2"),
    ("<choice>Image 1</choice>", ONE_TWO, "1"),
    ("It is sharp.\n<score>4</score>", FIVE, "4"),
    ("最终判决:B", LETTERS, "B"),
    ("评分:4", FIVE, "4"),
    ("The correct label is unsafe.", SAFE, "unsafe"),
    ("I would classify this image as unsafe.", SAFE, "unsafe"),
    ('{"selection": "Image 2"}', ONE_TWO, "2"),
    # comparisons
    ("[[A = B = Bad]]", COMPARED, "A=B=Bad"),
    ("[[A≫B]]", STRENGTHS, "A>>B"),
    (r"\boxed{\text{Image 1 is better}}", ONE_TWO, "1"),
    # prose
    ("Image 2 has a slight edge over Image 1.", ONE_TWO, "2"),
    ("Image 2 follows the prompt more closely.", ONE_TWO, "2"),
    ("Image 2 matches the text prompt better than Image 1.", ONE_TWO, "2"),
    ("Image 2 is the closer match.", ONE_TWO, "2"),
    ("Image 2 provides a more accurate depiction of the prompt.", ONE_TWO, "2"),
    ("Assistant B provided the better answer.", LETTERS, "B"),
    ("Solution B is better.", LETTERS, "B"),
    ("The image on the right is better.", ONE_TWO, "2"),
    ("The second is better.", ONE_TWO, "2"),
    ("Image 2 is better because it has a lake, while Image 1 has a river.", ONE_TWO, "2"),
    ("Image 2 scored higher and is therefore considered the better image.", ONE_TWO, "2"),
    ("There is no clear winner.", TIE, "tie"),
    ("I'd call it a tie.", TIE, "tie"),
    # the judge's own answer to the question is not its verdict
    ("The correct answer is (A). Assistant B found it. [[B]]", LETTERS, "B"),
    ("Both images show the same lake. Image 2 is better.", ONE_TWO_TIE, "2"),
    ("Better image: 1\nBoth are equally good, but image 1 is slightly better.", ONE_TWO, "1"),
    ("Better image: 1\nImage 2 is more aligned with the pose in the prompt.", ONE_TWO, "1"),
]

NOT_READ = [
    # a choice that is none of the candidates, whatever is said after it
    ("Better image: 3\nAnalysis: image 2 is better.", ONE_TWO),
    ("Better image: not applicable\nImage 2 is better.", ONE_TWO),
    ("Better image: 3\nAnalysis: image 2 is better.", ONE_TWO_TIE),
    ("The hat is red, not blue. I am not sure that the answer is B.", LETTERS),
    ("Image A", IMAGES),
    ("Confidence: 1", ONE_TWO),
    ("Number of dogs: 2", ONE_TWO),
    ("Count: 2", ONE_TWO),
    ("Second best: 2", ONE_TWO),
    ("Analysis of verdict: A", LETTERS),
    ("Less preferred: 1", ONE_TWO),
    ("Worst response: A", LETTERS),
    ("Not chosen: B", LETTERS),
    ("Rejected: B", LETTERS),
    ("Quality score: 2", ONE_TWO),
    ("Image 1 score: 2", ONE_TWO),
    ("Better image: 0", ONE_TWO),
    ("Better image: neither", ONE_TWO),
    ("Better image: None", ONE_TWO),
    ("BETTER IMAGE: Both", ONE_TWO),
    ("BETTER IMAGE: 3", ONE_TWO),
    ("BETTER IMAGE: 1 or 2", ONE_TWO),
    ("BETTER IMAGE: IMAGE-1 and IMAGE-2", ONE_TWO),
    ("[[A=B]]", LETTERS),
    ("[[C]]", LETTERS),
    ("[[A=B]]", COMPARED),
    ("A>B>A", LETTERS),
    ('{"score": 7.5}', RATING),
    ('{"score": [7, 8]}', RATING),
    ('{"winner": "tie"}', LETTERS),
    ('{"better": "neither"}', ONE_TWO),
    ('{"confidence": 1}', ONE_TWO),
    ('{"second_choice": "B"}', LETTERS),
    ('{"answer": 1, "answer": 2}', ONE_TWO),
    ("The score is between 3 and 4.", FIVE),
    ("Score: 3-4", FIVE),
    ("Score: 6", FIVE),
    ("Score: 0", FIVE),
    ("Rating: 8/10", FIVE),
    ("4.5/5", FIVE),
    ("1 out of 4 dogs is there.", FIVE),
    ("3 dogs", FIVE),
    ("Rating: ★★★★", FIVE),
    ("Score: 4\nScore: 3", FIVE),
    ("I give this 3 points", FIVE),
    ("Text alignment score: 3\nQuality score: 4", FIVE),
    ("It is a draw.", LETTERS),
    ("Both images fail equally.", ONE_TWO),
    ("Image 1 is worse than image 2.", ONE_TWO),
    ("Image 1 is not better.", ONE_TWO),
    ("Image 1 is not better than Image 2.", ONE_TWO),
    ("Image 1 would be better if it had a dog.", ONE_TWO),
    ("It is unclear whether Image 1 is better.", ONE_TWO),
    ("Image 1 is better in composition, but Image 2 is better in color.", ONE_TWO),
    ("Is image 1 better? I do not know.", ONE_TWO),
    ("Image 1 has better lighting.", ONE_TWO),
    ("A better image would show the dog.", LETTERS),
    ("A is a letter.", LETTERS),
    ("This is a better match for the caption.", LETTERS),
    ("Image 1 could be better.", ONE_TWO),
    ("Image 2 is no better than Image 1.", ONE_TWO),
    ("Neither Image 1 nor Image 2 is better.", ONE_TWO),
    ("I do not prefer Image 1.", ONE_TWO),
    ("I would not choose B.", LETTERS),
    ("Image 1 is the worse choice.", ONE_TWO),
    ("If I had to say, Image 1.", ONE_TWO),
    ("Image 1 better? No.", ONE_TWO),
    ("1. Image 1 shows a dog.\n2. Image 2 shows a cat.", ONE_TWO),
    ("Image 1: good\nImage 2: bad", ONE_TWO),
    ("You should answer with 1 or 2.", ONE_TWO),
    ("Please choose A or B.", LETTERS),
    ("Output: [[A]] if assistant A is better, [[B]] if assistant B is better", LETTERS),
    ("Image 1 is better. However, overall Image 2 is better.", ONE_TWO),
    ("Answer: A\n\nOverall, Response B is better.", LETTERS),
    ("Image 1 is less accurate than Image 2", ONE_TWO),
    ("It is not true that Image 1 is better.", ONE_TWO),
    ("Image 1 is better than expected.", ONE_TWO),
    ("Image 1 is better at showing the dog but worse overall.", ONE_TWO),
    ("I doubt that Image 1 is better.", ONE_TWO),
    ("Some might say Image 1 is better.", ONE_TWO),
    ("The answer is A dog", LETTERS),
    ("The image is safe or not.", SAFE),
    ("8 7\nThe first answer", RATING),
    ("8 7", ONE_TWO),
    ("Rating: [[7.5]]", RATING),
    ("Ranking: A > B", LETTERS),
    ("1. Model A is better: [[A>B]]\n2. Model B is better: [[B>A]]", LETTERS),
    ("[[A>B]] or [[B>A]]", LETTERS),
    ("Output [[A>B]] if A is better.\n\nI cannot view images.", LETTERS),
    ("IMAGE-1 RATING: 5\nIMAGE-2 RATING: 3", ONE_TWO),
    ("IMAGE-1 RATING: Good\nIMAGE-2 RATING: Poor\n", ONE_TWO),
    ("Assistant A: 8\nAssistant B: 7", LETTERS),
    ("Response 1: 2\nResponse 2: 1", ONE_TWO),
    ("Image 1: 1\nImage 2: 2", ONE_TWO),
    ("Quality: 4/5", FIVE),
    ("Rating: 4 stars", FIVE),
    ("Score: four", FIVE),
    ("it deserves a 7 out of 10", RATING),
    ("The image has good lighting.", LEVELS),
    ("The quality is poor.", LEVELS),
    ("Rating: not good", LEVELS),
    ("Response 2 is more helpful.", ONE_TWO),
    ("Image 2 is of higher quality.", ONE_TWO),
    ("I like image 1 more.", ONE_TWO),
    ("Image 1 meets the criteria better.", ONE_TWO),
    ("Image 1 is closer to the prompt.", ONE_TWO),
    ("Image 1 is the better image, while Image 2 is not.", ONE_TWO),
    ("Image 1 is better in terms of color.", ONE_TWO),
    ("Image 1 is better for color, Image 2 is better for shape.", ONE_TWO),
    ("With a score of 4 to 3, they win.", FIVE),
    ("Number: 4", FIVE),
    ("The result is 4 dogs", FIVE),
    ("Rating of Image 1: 2", ONE_TWO),
    ("Grade: 1", ONE_TWO),
    ("result: 2", ONE_TWO),
    ("Answer 1: 2 dogs\nAnswer 2: 3 dogs", ONE_TWO),
    ("Answer 2: yes", ONE_TWO),
    ("Answer: 1 and 2", ONE_TWO),
    ("Answer: both", ONE_TWO),
    ("Answer: neither", ONE_TWO),
    ("Answer: Neither image", ONE_TWO),
    ("The response.text accessor needs a valid Part", ONE_TWO),
    ("Sorry, I cannot choose.", ONE_TWO),
    ("Sorry, I can't decide which image is better.", ONE_TWO),
    ("[[A]] is better than [[B]]", LETTERS),
    ("Verdict: not A", LETTERS),
    ("A or B: A", LETTERS),
    # a copied list, its rest, and a copied template
    ("B>A]]\n3. Both are equally good: [[A=A]]\n4. Nothing can be said: [[N/A]]", COMPARED),
    ("BETTER IMAGE: YOUR CHOICE\n\nANALYSIS OF CHOICE: YOUR ANALYSIS", ONE_TWO),
    # the name of a candidate within another word
    ("preimage 2 is better", ONE_TWO),
    # claims that contradict each other
    ("Better image: 1 Analysis: sharp. Overall, the second image is better.", ONE_TWO),
    ("I say [[A>B]]. Therefore, B is better.", LETTERS),
    # the judge's own answer to the question, and the answers of the candidates
    ("The correct answer is B. Both Assistant A and Assistant B got it wrong.", LETTERS),
    (r"So x = 2, that is \boxed{B}. Response A and Response B say C.", LETTERS),
    ("Assistant A says the answer is B.", LETTERS),
    ("Response B's final answer: A", LETTERS),
    ("The instructions say [[A]] if A is better and [[B]] otherwise.", LETTERS),
    ("If B is better, output [[B]].", LETTERS),
    ("B>A]]\n3. Tie", COMPARED),
    ("Maximum score: 5", FIVE),
    ("Score: 4 - 1 = 3", FIVE),
    # better in one respect
    ("Image 1 is better at the dog but Image 2 is better overall at the cat.", ONE_TWO),
    ("B is better for beginners, A for experts.", LETTERS),
    ("A is better than B in some ways.", LETTERS),
    ("Image 1 has a sharp edge.", ONE_TWO),
    ("Image 1 reflects light better.", ONE_TWO),
    ("Image 1 looks better than it did before.", ONE_TWO),
    ("I do not think that Image 1 is better.", ONE_TWO),
]

SELF_CONTRADICTING = [
    ("Better image: 1\nAnalysis: image 2 is better because it has the boat.", ONE_TWO),
    ("Better image: 1\nAnalysis: the second is sharper, making it the better image.", ONE_TWO),
    ("Better image: 1\nImage 2 has a higher rating and is considered the better image.", ONE_TWO),
    ("Better image: 1\nThe ratings are equal, so I cannot decide which one is better.", ONE_TWO),
    ("Better image: 1\nBoth images show a dog, and they are equally good.", ONE_TWO_TIE),
    ("[[A>B]] Therefore, Model B is slightly better.", COMPARED),
]


@pytest.mark.parametrize(("text", "verdicts", "expected"), READ)
def test_reads_every_shape(text: str, verdicts: Sequence[str], expected: str) -> None:
    assert parse_verdict(text, verdicts).value == expected


@pytest.mark.parametrize(("text", "verdicts"), NOT_READ)
def test_guesses_nothing(text: str, verdicts: Sequence[str]) -> None:
    verdict = parse_verdict(text, verdicts)
    assert verdict.value is None
    assert verdict.reason


@pytest.mark.parametrize(("text", "verdicts"), SELF_CONTRADICTING)
def test_a_text_that_concludes_another_verdict_contradicts_itself(
    text: str, verdicts: Sequence[str]
) -> None:
    verdict = parse_verdict(text, verdicts)
    assert verdict.value is None
    assert verdict.reason.startswith(f"{SELF_CONTRADICTION}: ")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_reads_its_example_and_stands_in_the_documentation(form: Form) -> None:
    text, verdicts, expected = form.example
    verdict = parse_verdict(text, verdicts)
    assert verdict.value == expected
    assert expected is None or verdict.reason == form.name
    cells = (
        form.name,
        str(form.level or "–"),
        ", ".join(map(str, form.contradicts)) or "–",
        f"`{text}`".replace("\n", " ⏎ ").replace("|", "\\|"),
        ", ".join(verdicts),
        expected or "no verdict",
    )
    assert f"| {' | '.join(cells)} |" in DOCUMENTATION.splitlines()


def test_the_documentation_lists_no_other_form() -> None:
    table = DOCUMENTATION.split("| form |")[1].split("\n\n")[0]
    assert len(table.splitlines()) == len(FORMS) + 2


def test_documented_gaps_are_gaps() -> None:
    table = DOCUMENTATION.split("| text | verdicts | why |")[1].split("\n\n")[0]
    rows = [row.split(" | ") for row in table.splitlines()[2:]]
    assert len(rows) == 11
    for text, verdicts, _ in rows:
        plain = text.strip("| `").replace(" ⏎ ", "\n")
        assert parse_verdict(plain, verdicts.split(", ")).value is None, plain


def test_a_copied_list_does_not_hide_the_choice_after_it() -> None:
    copied = "1. A is better: [[A>B]]\n2. B is better: [[B>A]]\n3. Both: [[A=B=Good]]\n\n"
    assert parse_verdict(copied, COMPARED).value is None
    assert parse_verdict(f"{copied}The lamp decides: [[B>A]]", COMPARED).value == "B>A"


def test_the_kind_decides_whether_verdicts_are_ratings() -> None:
    three = ("1", "2", "3")
    assert parse_verdict("Score: 2", three).value == "2"
    assert parse_verdict("Score: 2", three, ratings=False).value is None
    assert parse_verdict("Score: 2", ("2", "5"), ratings=True).value == "2"
    assert KINDS["pairwise"].read("Score: 2", three).value is None
    assert KINDS["pointwise"].read("Score: 2", three).value == "2"


@pytest.mark.parametrize("verdicts", [("A", "B", "C"), ("A", "B", "tie"), ("A>B", "B>A", "A=B")])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[[A>>B]]", 0),
        ("My verdict: [[B>>A]]", 1),
        ("[[A=B]]", 2),
        ("[[C]]", 2),  # MT-Bench's and MLLM-as-a-Judge's tie
        ("Both are bad: [[A=B=Bad]]", 2),  # GenAI-Bench's
        ("It is a tie.", 2),
        ("Response B is better.", 1),
    ],
)
def test_the_third_verdict_of_a_pair_is_the_tie(
    text: str, place: int, verdicts: Sequence[str]
) -> None:
    assert KINDS["pairwise"].read(text, verdicts).value == verdicts[place]
